"""Text in a page stays text: nothing ends a script, and only our own script runs."""

import base64
import gzip
import hashlib
import json

from shardproof.report.page.embedding import compress, encode_json, make_policy


def test_json_in_a_script_cannot_end_it():
    data = {"name": "</script><!--&\u2028"}
    text = encode_json(data)
    assert not set("<>&") & set(text)
    assert json.loads(text) == data


def test_what_is_compressed_comes_back_and_is_the_same_each_time():
    assert gzip.decompress(base64.b64decode(compress("a proof"))) == b"a proof"
    assert compress("a proof") == compress("a proof")


def test_the_policy_lets_these_texts_run_and_nothing_else():
    digest = base64.b64encode(hashlib.sha256(b"f()").digest()).decode()
    policy = make_policy(["a {}"], ["f()"])
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy

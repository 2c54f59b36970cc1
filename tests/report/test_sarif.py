"""SARIF: valid by the published schema, a result for each first cause, and text that is no markup."""

import json
from pathlib import Path

import jsonschema
import pytest
from tests.report.proofs import finding, proof

from shardproof.frameworks.plan_source import read_function_source
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.report.sarif import SCHEMA, escape_message, render_sarif
from shardproof.version import __version__

# Published by OASIS, at the address that is its id.
PUBLISHED = json.loads((Path(__file__).parent / "data" / "sarif-schema-2.1.0.json").read_text())
VALIDATOR = jsonschema.Draft4Validator(PUBLISHED)


def parallelize(model, mesh):
    return {"up": "column"} and (model, mesh)


def render(*findings, source=None, subject="my step.py:step", **settings):
    root = Path(__file__).parent
    content = json.loads(render_sarif(proof(*findings, **settings), source=source, root=root, subject=subject))
    VALIDATOR.validate(content)
    assert (content["$schema"], len(content["runs"])) == (PUBLISHED["id"], 1)
    return content["runs"][0]


def wrong(name="up.weight", **changes):
    return finding(name, Verdict.WRONG, root=True, **changes)


def test_the_schema_is_the_one_that_is_named_and_refuses():
    assert PUBLISHED["id"] == SCHEMA
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({"version": "2.1.0", "runs": [{"results": []}]})
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(
            {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": [{"level": "error"}]}]}
        )


def test_what_is_proved_has_no_results():
    run = render(finding("a"), finding("b"))
    assert (run["results"], run["tool"]["driver"]["rules"]) == ([], [])
    assert run["tool"]["driver"]["semanticVersion"] == __version__
    assert run["automationDetails"]["id"] == "shardproof/my step.py:step/"


def test_a_first_cause_is_a_result_with_its_rule_its_line_and_its_tensor():
    cause = Cause(kind=CauseKind.ZERO_EVERYWHERE)
    follows = finding("up.weight", Verdict.WRONG)
    run = render(wrong(cause=cause), follows, source=read_function_source(parallelize))
    (result,) = run["results"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [result["ruleId"]] == ["zero-everywhere"]
    assert result["message"]["text"] == "step 1, gradient: up.weight: WRONG. zero everywhere."
    (location,) = result["locations"]
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "step 1, gradient up.weight"
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "test_sarif.py"
    assert location["physicalLocation"]["region"] == {"startLine": parallelize.__code__.co_firstlineno + 1}


def test_without_a_known_line_the_tensor_alone_is_the_location():
    (result,) = render(wrong())["results"]
    assert set(result["locations"][0]) == {"logicalLocations"}


def test_what_the_user_allows_is_suppressed_and_says_by_what():
    allowed = finding("b", Verdict.VACUOUS, root=True, allowed="VACUOUS *")
    (result,) = render(finding("a"), allowed, allow=("VACUOUS *",))["results"]
    assert result["suppressions"] == [{"kind": "external", "justification": "allowed by 'VACUOUS *'"}]
    assert result["ruleId"] == "vacuous"


def test_a_proof_of_nothing_is_a_result():
    (result,) = render()["results"]
    assert result["ruleId"] == "nothing-proved"


def test_fingerprints_tell_results_apart_and_stay():
    (first,), (again,), (other,) = (render(wrong(name))["results"] for name in ("a.w", "a.w", "b.w"))
    assert first["partialFingerprints"] == again["partialFingerprints"] != other["partialFingerprints"]


@pytest.mark.parametrize("name", ["<script>", "[x](0)", "{0}", "a\n\u0000b", '"', "\\", "\ud800"])
def test_a_name_of_any_kind_is_text(name):
    (result,) = render(wrong(name), subject=name)["results"]
    text = result["message"]["text"]
    assert "](" not in text.replace("\\](", "")
    assert "{0}" not in text.replace("{{0}}", "")
    assert "\n" not in text


def test_braces_and_links_are_escaped_as_the_format_says():
    assert escape_message("{0} [x](1) [2, 3]") == "{{0}} [x\\](1) [2, 3]"


def test_paths_are_addresses(tmp_path):
    folder = tmp_path / "my plans"
    folder.mkdir()
    (folder / "plan.py").write_text("def parallelize(model, mesh):\n    return {'up': 1}\n")
    space = {}
    exec(compile((folder / "plan.py").read_text(), folder / "plan.py", "exec"), space)
    content = json.loads(render_sarif(proof(wrong()), source=read_function_source(space["parallelize"]), root=tmp_path))
    location = content["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert (location["artifactLocation"]["uri"], location["region"]) == ("my%20plans/plan.py", {"startLine": 2})

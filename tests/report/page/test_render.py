"""The page as HTML: one file, no network, names as text, and of a size that a browser opens."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from tests.report.page.shown import RIGHT, WRONG, shown

from shardproof.proving.records import Key, Phase
from shardproof.report.json import render_json
from shardproof.report.page.render import render_proof_page

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Collects elements, ids, links and visible text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links, self.text, self._skip = [], [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        if not self._skip:
            self.text.append(data)


def test_the_verdict_the_cause_and_every_tensor_are_in_the_html():
    text = " ".join("".join(Reader(render_proof_page(shown(), subject="my step")).text).split())
    for said in ("Not proved", "my step", "an all-reduce is missing", "What would mend it", "down.bias", "model.py:7"):
        assert said in text


def test_every_link_leads_to_something_in_the_page():
    page = Reader(render_proof_page(shown(), certificate="{}"))
    inside = [link for link in page.links if link.startswith("#")]
    assert inside
    assert {link[1:] for link in inside} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert all(link.startswith(("#", "data:application/gzip")) for link in page.links)


def test_nothing_is_loaded_from_anywhere():
    page = render_proof_page(shown())
    assert not re.findall(r'(?:src|srcset|action)="', page)
    assert not re.findall(r"url\(|@import|https?://", page)
    assert not [tag for tag, _ in Reader(page).tags if tag in ("link", "img", "iframe", "object", "embed")]
    assert not [found for _, found in Reader(page).tags if "style" in found or any(k.startswith("on") for k in found)]


def test_a_module_called_script_is_text():
    evil = replace(WRONG, key=Key(0, Phase.GRADIENT, EVIL), source_line=EVIL)
    page = render_proof_page(shown(evil, replace(RIGHT, key=Key(0, Phase.GRADIENT, '"><b>'))), subject=EVIL)
    assert EVIL not in page
    assert EVIL in "".join(Reader(page).text)
    assert [tag for tag, _ in Reader(page).tags].count("script") == 2  # the data and the code
    assert '"><b>' not in page


def test_a_proof_of_ten_thousand_tensors_is_under_20_megabytes():
    many = [
        replace(one, key=Key(0, one.key.phase, f"model.layers.{number}.self_attn.q_proj.weight"), root=False)
        for number in range(10_000)
        for one in [WRONG if number % 3 == 0 else RIGHT]
    ]
    big = shown(*many, evidence=None)
    page = render_proof_page(big, certificate=render_json(big))
    assert 10_000 < page.count('class="tensor"') + 1 < 10_002
    assert len(page.encode()) < 20e6

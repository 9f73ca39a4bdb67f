"""The classifiers of the benches learn what is there, and nothing else; `bench.classify` and `bench.pairing`
work. The figures are in docs/security.md: the short forms see too little for any, and only gross errors fail.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import classify, pairing
from bench.classifier import NaiveBayes, Sample, Tree, score_of
from bench.classify import Case, Settings
from bench.report import machine

PROTOCOL = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
Labelled = Callable[[dict[str, float], random.Random], object]


def samples(label: Labelled, seed: int, count: int = 400) -> list[Sample]:
    draw = random.Random(seed)
    rows = [{"a": float(draw.randrange(4)), "b": float(draw.randrange(4))} for _ in range(count)]
    return [Sample(label(row, draw), dict(row)) for row in rows]


def test_both_find_a_feature_that_shows_the_label() -> None:
    for kind in (Tree, NaiveBayes):
        score = score_of(
            kind(samples(lambda row, _: row["a"] > 1, 1)), samples(lambda row, _: row["a"] > 1, 2)
        )
        assert score.accuracy == 1
        assert 0.4 < score.majority < 0.6


def test_a_tree_learns_a_combination_of_two_features() -> None:
    def label(row: dict[str, float], _: random.Random) -> bool:
        return (row["a"] > 1) != (row["b"] > 0)

    assert score_of(Tree(samples(label, 1)), samples(label, 2)).accuracy > 0.9


def test_labels_without_a_sign_are_guessed_by_chance() -> None:
    for kind in (Tree, NaiveBayes):
        train, test = (samples(lambda _, draw: draw.randrange(3), seed, 2_000) for seed in (1, 2))
        score = score_of(kind(train), test)
        assert abs(score.accuracy - 1 / 3) < 2 * score.margin


def test_a_feature_that_is_missing_is_a_sign_too() -> None:
    found = [Sample("with", {"a": 1.0}), Sample("without", {})] * 30
    assert score_of(Tree(found), found).accuracy == 1


def test_the_margin_is_wilsons() -> None:
    always = Tree([Sample("x", {})])
    assert score_of(always, [Sample("x", {})] * 100).margin == pytest.approx(0.0185, abs=1e-4)
    half = score_of(always, [Sample("x", {}), Sample("y", {})] * 50)
    assert (half.accuracy, half.majority) == (0.5, 0.5)
    assert half.margin == pytest.approx(0.0962, abs=1e-4)
    assert score_of(always, [Sample("x", {}), Sample("y", {})] * 50, count=50).margin > half.margin


def test_claims_are_those_of_the_document() -> None:
    """A section that it names exists, and admits what comes back; what is claimed of bytes is said so."""
    text = PROTOCOL.read_text(encoding="utf-8")
    for question in classify.QUESTIONS:
        assert all(f"## {section}\n" in text for section in question.claim.values())
    threats = text.partition("## Threat model\n")[2].partition("\n## ")[0]
    for row in ("learning one's position", "telling a query from a reply"):
        (line,) = (line for line in threats.splitlines() if line.startswith(f"| {row}"))
        assert "from the frame itself" in line
    assert "security.md#what-a-proxy-can-guess" in threats


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        score_of(Tree([Sample("x", {})]), [])


@pytest.mark.parametrize("options", [["--queries", "39"], ["--late-queries", "1"], ["--queries", "none"]])
def test_too_few_queries_are_wrong_use(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        classify.main(options)
    assert refusal.value.code == 2
    assert "queries" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return classify.measure(Settings.short())


@pytest.mark.full
def test_no_claim_is_grossly_wrong(cases: list[Case]) -> None:
    claimed = [case for case in cases if case.claim]
    asked = {case.question for case in claimed}
    assert asked >= {"position, of 3 proxies", "query or reply, by a block", "query, DROP or loop"}
    for case in claimed:
        # Four standard deviations: chance does not reach it in a thousand runs.
        assert case.score.accuracy < case.score.majority + 0.03 + 2 * case.score.margin, case


@pytest.mark.full
def test_known_leaks_are_found_and_not_claimed(cases: list[Case]) -> None:
    """A tunnel shows by the chunks that come back before its forward half ends."""
    (found,) = (each for each in cases if (each.question, each.knowledge) == ("query or tunnel", "counts"))
    assert found.verdict == "leaks"
    assert found.claim == ""


@pytest.mark.full
def test_the_reports_name_every_question(cases: list[Case]) -> None:
    shown = classify.text(Settings.short(), cases, machine())
    assert all(question.name in shown for question in classify.QUESTIONS)
    assert "not claimed" in shown
    found = classify.record(Settings.short(), cases, machine())
    assert len(found["verdicts"]) == len(cases) == 4 * len(classify.QUESTIONS)


@pytest.mark.full
def test_pairing_as_table_and_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    assert pairing.main(["--short", "--tunnels", "2", "--json", str(target)]) == 0
    found = json.loads(target.read_text(encoding="utf-8"))["cases"]
    assert [case["tunnels"] for case in found] == [2] * 4
    assert all(0 <= case[how] <= 1 for case in found for how in ("by_bytes", "by_times"))
    assert "constant rate" in capsys.readouterr().out

"""The first words of a study's page."""

from pathlib import Path

from study_documents import document, run

from nnunet_iac.workflow.study_report import write_study_report


def page(tmp_path: Path, searched: int, random: int) -> str:
    runs = [run("iac-lth", 0, 0.1, epochs=searched), run("random", 0, 0.2, epochs=random)]
    write_study_report(document(*runs), tmp_path / "report.html")
    assert "'+" not in (tmp_path / "tables.csv").read_text()  # A number, to a spreadsheet as well.
    return (tmp_path / "report.html").read_text()


def test_a_random_cell_of_another_length_is_called_so(tmp_path: Path) -> None:
    said = "0.1000 lower than a random cell trained on 11250 batches instead of 58500 ("
    assert said in page(tmp_path, 234, 45)


def test_it_states_whether_the_backbone_has_converged(tmp_path: Path) -> None:
    halves = [
        run("reference", 0, gain, backbone=name, curve=[0.5] * epochs)
        for name, gain, epochs in (("a", 0.1, 10), ("b", 0.2, 20))
    ]
    found = {**document(run("iac-lth", 0, 0.1), *halves), "halves": {"a": "b"}}
    write_study_report(found, tmp_path / "report.html")
    said = "b, trained for 20 epochs, has a validation Dice of"
    assert said in (tmp_path / "report.html").read_text()


def test_it_states_what_may_have_been_seen_before_the_numbers(tmp_path: Path) -> None:
    leak = "was trained on fold 1, whose training cases are not this fold's"
    write_study_report(
        document(run("iac-lth", 0, 0.1, leakage=leak), run("random", 0, 0.1)), tmp_path / "r.html"
    )
    page = (tmp_path / "r.html").read_text()
    assert "1 of 2 trainings may have seen validation cases" in page
    assert page.index("was trained on fold 1") < page.index("iac-lth: Dice")


def test_searches_by_another_name_have_a_first_sentence_as_well(tmp_path: Path) -> None:
    runs = run("printed", 0, 0.1, search_epochs=9), run("random", 0, 0.2, search_epochs=0)
    found = {**document(*runs), "methods": ["printed", "random"]}
    write_study_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "printed: Dice 0.8075, 0.1000 lower than a random cell" in page
    assert "random: Dice" not in page


def test_a_random_cell_of_the_same_length_gets_no_remark(tmp_path: Path) -> None:
    assert "iac-lth: Dice 0.8075, 0.1000 lower than a random cell (" in page(tmp_path, 45, 45)

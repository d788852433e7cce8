from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from sparsebench.cli import main
from sparsebench.files import write_csv
from sparsebench.records.schema import LAYERS_COLUMNS, METRICS_COLUMNS
from sparsebench.report.cost import cost, pareto
from sparsebench.report.data import load, points
from sparsebench.report.figures.accuracy import accuracy
from sparsebench.report.figures.layers import layers
from sparsebench.report.figures.trainings import trainings
from sparsebench.report.selection import at, level
from sparsebench.report.style import rendered, settings, sparsity_axis, styles
from tests.support.tables import put, reported, table


def with_files(folder):
    """Layers and evaluations for every run in ``folder``."""
    for place in sorted(folder.iterdir()):
        offset = 0.01 * (place.name[-1] == "1")  # of seed 1
        sparsities = {"stem.weight": (0.5 + offset, True), "fc.weight": (0.0, False)}
        rows = [
            dict.fromkeys(LAYERS_COLUMNS, 1) | {"layer": name, "sparsity": sparsity, "prunable": prunable}
            for name, (sparsity, prunable) in sparsities.items()
        ]
        write_csv(place / "layers.csv", LAYERS_COLUMNS, rows)
        steps = [dict.fromkeys(METRICS_COLUMNS, 0.1) | {"step": n, "epoch": n} for n in (1, 2)]
        write_csv(place / "metrics.csv", METRICS_COLUMNS, steps)
    return folder


@pytest.fixture
def results(tmp_path):
    return some_results(tmp_path)


def some_results(folder):
    """Dense, dpf and gmp with two seeds, a run that diverged, and one of another budget."""
    rows = [reported("dense", 0.0, s, v) for s, v in enumerate((92.0, 93.0))]
    rows += [reported("dpf", 0.9, s, v) for s, v in enumerate((90.0, 92.0))]
    rows += [reported("dpf", 0.95, s, v) for s, v in enumerate((88.0, 89.0))]
    rows += [reported("gmp", 0.9, s, v) for s, v in enumerate((89.0, 90.0))]
    rows += [
        reported("gmp", 0.95, 0, "", status="diverged"),
        reported("gmp", 0.95, 1, 60.0, sparsity_ok=False),
    ]
    rows += [reported("dpf", 0.9, 0, 94.0, epochs=300, config_hash="long", run_id="long")]
    return with_files(put(folder / "runs", rows))


def means(*rows):
    return pd.DataFrame([
        {"dataset": "d", "model": "m", "budget": b, "method": m, "variant": "", "label": m, "config_hash": f"{m}{s}{b}",
         "target_sparsity": s, "sparsity": s, "n": 2, "top1": t, "top1_std": 0.5, "macs_sparse": c, "train_flops": c}
        for b, m, s, t, c in rows
    ])  # fmt: skip


def test_means_are_of_one_budget_and_of_runs_that_count(results):
    table = points(load(results).frame).set_index(["label", "sparsity"])
    assert table.loc[("dpf, 10 epochs", 0.9), "top1"] == 91.0
    assert table.loc[("dpf, 10 epochs", 0.9), "top1_std"] == pytest.approx(2**0.5)
    assert table.loc[("dpf, 300 epochs", 0.9), ["n", "top1"]].tolist() == [1, 94.0]
    assert ("gmp, 10 epochs", 0.95) not in table.index


def test_difference_to_dense_is_to_the_same_seed_and_budget(results):
    frame = load(results).frame.set_index("run_id")
    assert frame.loc["dpf0.91", "difference_to_dense"] == -1.0  # 92 less the 93 of seed 1
    assert pd.isna(frame.loc["long", "difference_to_dense"])
    table = points(load(results).frame).set_index("label")
    assert table.loc["gmp, 10 epochs", "difference_to_dense"] == -3.0


def test_a_seed_without_its_dense_run_is_named(tmp_path):
    rows = [reported("dense", 0.0, 0, 92.0), reported("dpf", 0.9, 0, 90.0), reported("dpf", 0.9, 1, 91.0)]
    frame = load(put(tmp_path, rows)).frame.set_index("run_id")
    assert frame.loc["dpf0.90", ["difference_to_dense", "dense_command"]].tolist() == [-2.0, ""]
    assert pd.isna(frame.loc["dpf0.91", "difference_to_dense"])
    assert frame.loc["dpf0.91", "dense_command"] == "sparsebench train prune=dense seed=1"
    table = points(frame.reset_index()).set_index("label")
    assert table.loc["dpf", ["n", "difference_to_dense"]].tolist() == [2, -1.5]  # of the means: no two pairs


def test_the_command_of_a_missing_dense_run_keeps_the_budget_and_drops_the_method(tmp_path):
    argv = "optimizer.lr=0.2 schedule.interval=1it prune.rounds=2 model.depth=56"
    frame = load(put(tmp_path, [reported("imp", 0.9, 3, 90.0, argv)])).frame
    assert frame["dense_command"].tolist() == [
        "sparsebench train prune=dense seed=3 optimizer.lr=0.2 model.depth=56"
    ]
    assert "results_dir" not in frame["command"].iloc[0]


def test_the_command_of_a_missing_dense_run_makes_the_model_that_a_method_brought_along(tmp_path):
    put(tmp_path, [reported("sbp_sr", 0.9, 0, 90.0, "model.depth=8", run_id="x")])
    (tmp_path / "run-x" / "run.json").write_text('{"choices": {"model": "resnet"}}')
    (tmp_path / "run-x" / "config.yaml").write_text("model: {depth: 8, width: 16, stable: true}")
    (command,) = load(tmp_path).frame["dense_command"]
    assert command == "sparsebench train prune=dense model.stable=true seed=0 model.depth=8"


def test_settings_of_a_method_make_lines_of_their_own(tmp_path):
    rows = [reported("dpf", 0.9, 0, 90.0), reported("dpf", 0.9, 0, 91.0, "schedule.interval=1it")]
    rows += [reported("dpf", 0.9, 0, 92.0, "optimizer.lr=0.2")]
    frame = load(put(tmp_path, rows)).frame
    assert set(frame["label"]) == {"dpf", "dpf schedule.interval=1it", "dpf, optimizer.lr=0.2"}
    assert frame["budget"].nunique() == 2


def test_the_same_configuration_in_other_words_is_one_line(tmp_path):
    rows = [
        reported("dpf", 0.9, 0, 90.0),
        reported("dpf", 0.9, 1, 92.0, "model.depth=20", config_hash="dpf0.9"),
    ]
    (point,) = points(load(put(tmp_path, rows)).frame).to_dict("records")
    assert (point["n"], point["top1"]) == (2, 91.0)


def test_a_method_without_a_target_has_one_line_with_a_point_for_every_setting(tmp_path):
    rows = [
        reported("str", v, 0, 90.0, f"prune.s_init={s}", target_sparsity="")
        for s, v in ((-2, 0.8), (-1, 0.95))
    ]
    table = points(load(put(tmp_path, rows)).frame)
    assert table["label"].tolist() == ["str", "str"] and table["sparsity"].tolist() == [0.8, 0.95]


def test_rounds_before_the_last_are_in_no_mean(tmp_path):
    rows = [
        reported("imp", s, 0, t, run_id=str(n), round=n, rounds=1)
        for n, (s, t) in enumerate(((0.0, 93.0), (0.9, 90.0)))
    ]
    frame = load(put(tmp_path, rows)).frame
    assert frame.set_index("run_id")["state"].to_dict() == {"0": "earlier round", "1": "finished"}
    assert points(frame)["top1"].tolist() == [90.0]


def test_pareto_front_by_hand():
    table = means(("a", "x", 0.9, 90, 3), ("a", "y", 0.9, 91, 2), ("a", "z", 0.9, 89, 1), ("a", "w", 0.9, 91, 4),
                  ("b", "x", 0.9, 80, 9))  # fmt: skip
    assert pareto(table, "macs_sparse").tolist() == [False, True, True, False, True]


def test_two_lines_have_error_bars_and_dense_is_a_line_with_a_band():
    table = means(
        ("a", "dense", 0.0, 93, 9),
        ("a", "dpf", 0.9, 91, 2),
        ("a", "dpf", 0.99, 85, 1),
        ("a", "gmp", 0.9, 90, 2),
    )
    with settings():
        figure, _ = accuracy(table, styles(table, ["dense", "dpf", "gmp"]))
        rendered(figure)
    (axes,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "dense (n=2)",
        "dpf (n=2)",
        "gmp (n=2)",
    ]
    assert len(axes.containers) == 2 and all(container.has_yerr for container in axes.containers)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.9", "0.99"]
    assert "sparsity" in axes.get_xlabel() and "(%)" in axes.get_ylabel()
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (92.5, 1.0)


def test_many_lines_get_a_panel_each_and_at_one_sparsity_a_row_each():
    names = [f"m{i:02}" for i in range(12)]
    many = means(*[("a", name, s, 90 - i, 3) for i, name in enumerate(names) for s in (0.9, 0.95)])
    with settings():
        figure, _ = accuracy(many, styles(many, names))
        shown = [axes for axes in figure.axes if axes.get_visible()]
        assert [axes.get_title() for axes in shown] == [f"{name} (n=2)" for name in names]
        one, _ = accuracy(many[many["sparsity"] == 0.9], {})
    labels = [text.get_text() for text in one.axes[0].get_yticklabels()]
    assert labels == [f"{name} (n=2)" for name in reversed(names)]  # best on top


def test_lines_of_a_figure_differ_in_colour_marker_or_dashes_and_a_method_keeps_its_own():
    names = [f"m{i:02}" for i in range(42)]
    table = means(*[("a", name, 0.9, 90, 1) for name in names])
    looks = styles(table, names)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 42
    assert all(sum(to_rgb(look["color"])) < 2.4 for look in looks.values())  # none too light on white
    assert styles(table[table["label"] == "m30"], names)["m30"] == looks["m30"]


def test_the_sparsity_axis_spreads_high_sparsities_and_names_them():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    sparsity_axis(axes, pd.Series([0.5, 0.9, 0.99, 0.999]))
    ticks = dict(zip((t.get_text() for t in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    assert ticks["0.99"] - ticks["0.9"] == pytest.approx(ticks["0.999"] - ticks["0.99"])


def test_the_cost_figure_says_its_unit(results):
    table = points(load(results).frame)
    with settings():
        figure, _, data = cost(table, styles(table, ["dense", "dpf", "gmp"]), "train_flops", "training FLOPs")
    assert figure.axes[0].get_xlabel() == "training FLOPs (×10¹²)"
    assert data["pareto"].any()


def test_layers_are_means_over_seeds_and_what_is_not_prunable_is_empty(results):
    found = load(results)
    chosen = at(points(found.frame), 0.9)
    _, table = layers(found, chosen)
    dpf = table.set_index("configuration").loc["dpf, 10 epochs (n=2)"]
    assert dpf["stem.weight"] == pytest.approx(0.505) and pd.isna(dpf["fc.weight"])
    assert level(points(found.frame)) == 0.9


def test_training_curves_are_of_the_lowest_seed_and_of_runs_evaluated_twice(results):
    found = load(results)
    write_csv(results / "run-long" / "metrics.csv", METRICS_COLUMNS, [dict.fromkeys(METRICS_COLUMNS, 0.1)])
    ((figure, labels, data),) = trainings(found, points(found.frame).query("target_sparsity == 0.9"))
    assert labels == ["dpf, 10 epochs", "gmp, 10 epochs"] and len(data) == 4
    assert [axes.get_ylabel().split(" (")[0] for axes in figure.axes][:3] == [
        "validation top-1 accuracy", "sparsity", "mask flips",
    ]  # fmt: skip


class Page(HTMLParser):
    """The tags of a page, and the text of the JSON in it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.data, self._inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        self._inside = found.get("id") == "data"

    def handle_data(self, data):
        self.data += data if self._inside else ""


def report(results, *argv):
    assert main(["report", str(results), *argv]) == 0
    return results / "report"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(results, their report in a folder beside them)"""
    results = some_results(tmp_path_factory.mktemp("made"))
    (results / "running").mkdir()
    (results / "running" / "run.json").write_text("{}")
    folder = results.parent / "first"
    report(results, "-o", str(folder))
    return results, folder


def test_the_page_stands_alone_and_its_figures_lie_beside_it(made):
    folder = made[1]
    page = Page((folder / "index.html").read_text())
    assert page.tags.count("script") == 2 and "link" not in page.tags and "iframe" not in page.tags
    assert not [a for a in page.addresses if re.match(r"(https?:)?//", a)]
    figures = [a for a in page.addresses if a.startswith("figures/")]
    assert figures and all((folder / name).stat().st_size > 100 for name in figures)
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf", ".csv"}


def test_every_row_links_to_its_run_folder(made):
    data = json.loads(Page((made[1] / "index.html").read_text()).data)
    column = {column["key"]: i for i, column in enumerate(data["columns"])}
    for row_ in data["rows"]:
        link, run_id = (
            data["columns"][column[key]]["texts"][row_[column[key]]] for key in ("folder", "run_id")
        )
        assert (made[1] / link / "summary.csv").read_text().splitlines()[1].startswith(f"1,{run_id},")
    assert len(data["rows"]) == 11


def test_the_page_tells_what_it_left_out_and_where_numbers_come_from(made):
    text = (made[1] / "index.html").read_text()
    for fact in ("9 of 11 valid", "1 diverged", "1 missed its sparsity", "1 unfinished", "0123456789 (11 runs)",
                 f"sparsebench report {made[0]}", "2 of 11 runs are marked in the table"):  # fmt: skip
        assert fact in text


def test_another_report_is_equal_bytes_and_replaces_what_an_older_one_left(made):
    results, first = made
    second = results.parent / "second"
    (second / "figures").mkdir(parents=True)
    (second / "index.html").write_text('<meta name="generator" content="sparsebench report">')
    (second / "figures" / "gone-accuracy.png").write_text("old")
    report(results, "-o", str(second))
    found, expected = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (second, first)
    )
    assert len(expected) > 20 and found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_what_results_say_is_never_markup(tmp_path):
    evil = "</script><script>alert(1)</script><b>"
    rows = [
        reported("dense", 0.0, 0, 92.0),
        reported("dpf", 0.9, 0, 91.0, model=evil, dataset="$x^2$", version=evil),
    ]
    folder = report(put(tmp_path / "r", rows))
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert page.tags.count("script") == 2 and "b" not in page.tags
    assert evil not in text and "sha256-" in text
    assert evil in str(json.loads(page.data))
    assert "alert(1)</script>" not in "".join(p.read_text() for p in folder.rglob("*.svg"))


def test_a_csv_makes_a_report_without_figures_of_single_runs(results, tmp_path, capsys):
    assert main(["collect", str(results), "-o", str(tmp_path / "all.csv")]) == 0
    assert main(["report", str(tmp_path / "all.csv")]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("all-report/index.html\n")
    assert captured.err.endswith("9 of 11 runs are valid\n")
    folder = tmp_path / "all-report"
    assert "Created from a CSV" in (folder / "index.html").read_text()
    assert not [p for p in (folder / "figures").iterdir() if "layers" in p.name or "training-" in p.name]


@pytest.mark.slow
def test_real_runs_have_every_figure(tmp_path):
    for argv in (["prune=dense"], ["prune=dpf"]):
        assert main(["train", "model=mlp", "epochs=2", *argv, f"results_dir={tmp_path}"]) == 0
    folder = report(tmp_path)
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    kinds = ("accuracy", "training_flops", "inference_macs", "layers", "training-1")
    assert names == {f"digits-mlp-{kind}" for kind in kinds}
    curves = pd.read_csv(folder / "figures" / "digits-mlp-training-1.csv")
    assert curves.groupby("label")["epoch"].max().to_dict() == {"dense": 2, "dpf": 2}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["nowhere"], "path=nowhere: expected a run folder"),
        (["EMPTY"], "finished runs"),
        (["RUNS", "-o", "file"], "output=file: expected a folder"),
        (
            ["RUNS", "-o", "site"],
            "output=site: expected a folder whose index.html, if it exists, is a report",
        ),
        (["TEXT"], "expected numbers in the column top1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(results, tmp_path, monkeypatch, capsys, argv, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<title>mine</title>")
    table(tmp_path, "text", [reported("dpf", 0.9, 0, "good")])
    before = sorted(tmp_path.rglob("*"))
    names = {"RUNS": results, "EMPTY": "empty", "TEXT": "text"}
    assert main(["report", *(str(names.get(word, word)) for word in argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsebench: error: ") and named in line
    assert sorted(tmp_path.rglob("*")) == before

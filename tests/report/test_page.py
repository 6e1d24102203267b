import base64
import dataclasses
import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import cv2
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspark.errors import ContractError
from medspark.report import (
    Accounting,
    CalibrationCurve,
    ClassCount,
    ComparedModel,
    Drift,
    Drifts,
    Evaluation,
    Histogram,
    Leaks,
    OperatingPoint,
    Predictions,
    Report,
    RocCurve,
    Sample,
    Subgroup,
    render,
)
from medspark.report.page import LEAKS, _decimal, _percent
from medspark.report.reasons import REASONS


def text(element):
    return " ".join("".join(element.itertext()).split())


def of_class(tree, name):
    return [element for element in tree.iter() if name in element.get("class", "").split()]


def table(tree, heading):
    """The rows of the table whose first column is headed so, as text."""
    for found in tree.iter("table"):
        rows = [[text(cell) for cell in row] for row in found.iter("tr")]
        if rows[0][0] == heading:
            return rows[1:]
    raise LookupError(heading)


def bare_report(accounting):
    return Report("run", datetime(2025, 1, 1, tzinfo=UTC), "0.1.0", "4.1.0", "file:/w", "recipe", [], accounting)


@pytest.fixture
def tree(report, read):
    return read(render(report))


def test_the_headlines_show_the_numbers_given(tree):
    (cards,) = of_class(tree, "cards")

    assert [text(card) for card in cards] == [
        "Listed124,080files, 1,204 unchanged",
        "Processed121,310files, 1,284,500 frames",
        "Quarantined1,154files, 0.9 % of those listed",
        "AUC0.812on 2,000 held-out frames",
    ]


def test_the_title_facts_are_on_the_page(tree):
    header, facts = text(next(tree.iter("header"))), text(next(tree.iter("dl")))

    assert "Report of run 20250131T140312-ab12 2025-01-31 14:03 UTC · medspark 0.1.0 · Spark 4.1.0" in header
    assert facts == "Warehouses3a://archive/warehouse Recipe9f2c41d07b6e Modelforest-77c0"


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2025, 1, 31, 23, 30, tzinfo=UTC),
        datetime(2025, 1, 31, 23, 30),  # noqa: DTZ001 - what Spark collects
        datetime(2025, 2, 1, 1, 30, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_every_time_is_shown_in_utc(report, moment):
    assert "2025-01-31 23:30 UTC" in render(dataclasses.replace(report, created_at=moment))


def test_a_sum_that_adds_up_has_a_tick_and_no_alert(tree):
    (equation,) = of_class(tree, "sum")

    assert text(equation) == (
        "124,080listed = 121,310processed + 1,204unchanged + 412skipped + 1,154quarantined ✓ adds up"
    )
    assert not of_class(tree, "alert")


@pytest.mark.parametrize(
    ("n_listed", "said"),
    [
        (124_087, "7 of 124,087 listed files are not accounted for."),
        (122_080, "2,000 files are counted twice or were never listed."),
    ],
)
def test_a_sum_that_does_not_add_up_is_a_loud_warning(report, read, n_listed, said):
    tree = read(
        render(dataclasses.replace(report, accounting=dataclasses.replace(report.accounting, n_listed=n_listed)))
    )
    (alert,), (equation,) = of_class(tree, "alert"), of_class(tree, "sum")

    assert alert.get("role") == "alert"
    assert said in text(alert)
    assert text(equation).startswith(f"{n_listed:,}listed ≠ ")
    assert text(equation).endswith("✗ does not add up")


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 10**9), min_size=4, max_size=4), surplus=st.integers(-2, 2))
def test_the_alert_is_there_exactly_when_the_sum_is_wrong(counts, surplus):
    page = render(bare_report(Accounting(sum(counts) + surplus, *counts)))

    assert ('role="alert"' in page) == (surplus != 0)
    assert ("✓ adds up" in page) == (surplus == 0)


def test_formats_and_modalities_are_counted_the_largest_first(tree):
    assert [row[:3] for row in table(tree, "Format")] == [
        ["dicom", "98,980", "79.8 %"],
        ["png", "25,080", "20.2 %"],
        ["not stated", "20", "< 0.1 %"],
    ]
    assert [row[:3] for row in table(tree, "Modality")] == [["CT", "71,010", "57.2 %"], ["MR", "53,070", "42.8 %"]]


def test_each_reason_comes_with_its_meaning_and_advice(report, read):
    codes = {code: 1_000 + i for i, code in enumerate([*REASONS, "not_yet_invented"])}
    accounting = dataclasses.replace(report.accounting, quarantined=codes)
    rows = {
        row[0]: row[1:] for row in table(read(render(dataclasses.replace(report, accounting=accounting))), "Reason")
    }

    assert {code: int(row[0].replace(",", "")) for code, row in rows.items()} == codes
    for code, reason in REASONS.items():
        assert rows[code][1:] == [sentence.replace("`", "") for sentence in reason]
    assert rows["not_yet_invented"][1] == "This version of medspark does not know the code."


def test_the_recipe_is_listed_in_its_order(tree):
    assert table(tree, "#") == [
        ["1", "median", "size = 5", "image", ""],
        ["2", "canny", "low = 100, high = 200", "image", "edges"],
        ["3", "density", "", "edges", ""],
    ]


def test_classes_are_counted_for_each_side(tree):
    by_class = next(found for found in tree.iter("table") if "train: frames" in text(found))

    assert [[text(cell) for cell in row] for row in by_class.iter("tr")][1:] == [
        ["sick", "3,000", "75.0 %", "70", "0", "0 %", "0"],
        ["well", "1,000", "25.0 %", "30", "250", "100 %", "–"],  # noqa: RUF001
    ]


def test_the_contact_sheet_holds_the_pixels_given(report, tree):
    images = list(tree.iter("img"))
    planes = report.contact_sheet[0].planes

    assert [image.get("alt") for image in images] == ["original", "edges", "segmentation"]
    for image, expected in zip(images, planes.values(), strict=True):
        content = base64.b64decode(image.get("src").removeprefix("data:image/png;base64,"))
        shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(shown if shown.ndim == 2 else shown[..., ::-1], expected)


def test_features_stand_in_the_order_given_with_their_importance(tree):
    (charts,) = of_class(tree, "charts")

    assert [text(caption) for caption in charts.iter("figcaption")] == [
        "lbp_3importance 0.250",
        "edges_densityimportance 0.125",
    ]


def test_the_metrics_are_those_given_and_an_undefined_one_is_a_dash(tree):
    (metrics,) = of_class(tree, "metrics")

    assert [[text(cell) for cell in row][:2] for row in metrics.iter("tr")] == [
        ["Accuracy", "0.950"],
        ["AUC", "0.812"],
        ["Specificity", "–"],  # noqa: RUF001
        ["Brier score", "0.062"],
    ]


def test_the_confusion_matrix_has_counts_and_shares_of_the_row(tree):
    (matrix,) = of_class(tree, "matrix")
    rows = list(matrix.iter("tr"))

    assert [text(cell) for cell in rows[0]] == ["true ↓ predicted →", "sick", "well"]
    assert [text(cell) for cell in rows[1]] == ["sick", "1,90095.0 %", "1005.0 %"]
    assert [text(cell) for cell in rows[2]] == ["well", "0–", "0–"]  # noqa: RUF001
    assert [cell.get("style") for cell in rows[1]] == [None, "--share: 0.950", "--share: 0.050"]
    assert [cell.get("class") for cell in rows[2]] == [None, None, "own"]


def test_the_legend_of_the_roc_names_each_class_with_its_auc(tree):
    (panel,) = of_class(tree, "roc")

    assert [text(entry) for entry in of_class(panel, "legend")[0]] == ["sick AUC 0.812", "dotted: guessing"]


@pytest.fixture
def judged_tree(judged, read):
    return read(render(judged))


NEW = {
    "Metric": "intervals",
    "Model": "compared",
    "Split": "random_split",
    "Class": "calibration",
    "Threshold": "operating_point",
    "Column": "subgroups",
    "Kind": "leaks",
    "Distribution": "drifts",
}


def headings(tree):
    return [text(next(found.iter("tr"))[0]) for found in tree.iter("table")]


@pytest.mark.parametrize(("heading", "name"), NEW.items())
def test_what_is_not_known_of_a_model_has_no_table(judged, read, heading, name):
    nothing = {"intervals": {}, "random_split": {}, "calibration": (), "subgroups": (), "compared": ()}.get(name)
    change = {name: nothing}
    if name in {field.name for field in dataclasses.fields(Evaluation)}:
        change = {"evaluation": dataclasses.replace(judged.evaluation, **change)}
    found = Counter(headings(read(render(judged))))
    without = Counter(headings(read(render(dataclasses.replace(judged, **change)))))

    assert found[heading] == 1 + 2 * (heading == "Class")  # the classes of the split, and of the predictions
    assert found - without == {heading: 1}
    assert without - found == Counter(["AUC"] if heading == "Metric" else [])  # the same table without its head


def test_a_model_of_which_little_is_known_has_the_page_of_before(tree, judged_tree):
    assert not set(headings(tree)) & (set(NEW) - {"Class"})
    for word in ("interval", "shuffled", "Retrain", "Leaks", "Calibration", "optimistic"):
        assert word in text(next(judged_tree.iter("main")))
        assert word not in text(next(tree.iter("main")))


def test_each_metric_has_its_interval_beside_it(judged_tree):
    assert [row[:3] for row in table(judged_tree, "Metric")] == [
        ["AUC", "0.812", "0.750 to 0.875"],
        ["Sensitivity", "0.750", "–"],  # noqa: RUF001
        ["Specificity", "0.500", "–"],  # noqa: RUF001
        ["PR AUC", "0.625", "–"],  # noqa: RUF001
        ["Brier score", "0.125", "0.062 to 0.250"],
    ]
    assert (
        "The intervals draw patients, not frames: frames of one are alike. DeLong's interval of the AUC, which takes"
        " every frame for independent, is 0.781 to 0.844." in text(next(judged_tree.iter("main")))
    )


def test_the_kept_model_is_marked_among_those_of_its_run(judged_tree):
    assert table(judged_tree, "Model") == [
        ["forest, depth 0", "model", "2,000", "0.812", "0.750 to 0.875", "0.750", "0.500", "0.125", "✓ kept"],
        ["svm, C 10.0", "compare", "2,000", "0.688", "0.500 to 0.750", "0.625", "0.375", "0.188", ""],
        ["forest", "search", "8,000", "–", "–", "–", "0.250", "0.312", ""],  # noqa: RUF001
    ]


def test_a_model_that_was_tried_alone_is_not_compared(judged, read):
    tree = read(render(dataclasses.replace(judged, compared=judged.compared[:1])))

    assert "Model" not in headings(tree)


@pytest.mark.parametrize(("n", "is_said"), [(3, True), (2, False)])
def test_the_folds_of_a_search_are_told_apart_from_the_held_out_frames(judged, read, n, is_said):
    tree = read(render(dataclasses.replace(judged, compared=judged.compared[:n])))

    assert ("which was measured on folds of the training side" in text(next(tree.iter("main")))) == is_said


def test_frames_at_random_stand_beside_the_split_of_the_model_with_a_warning(judged_tree):
    assert table(judged_tree, "Split") == [
        ["of this model", "0.812", "0.750", "0.500"],
        ["frames at random", "0.969", "0.938", "–"],  # noqa: RUF001
    ]
    assert "Frames at random are as a rule optimistic: a patient stands on both sides" in text(
        next(judged_tree.iter("main"))
    )


def test_the_calibration_is_counted_part_by_part(judged_tree):
    (figure,) = of_class(judged_tree, "calibration")
    parts = next(found for found in judged_tree.iter("table") if "Probability given" in text(found))

    assert text(of_class(figure, "legend")[0]).startswith("sickdotted: as often as said")
    assert len(list(figure.iter("svg"))) == 2  # the chart and the key
    assert [[text(cell) for cell in row] for row in parts.iter("tr")][1:] == [
        ["sick", "0.125", "0.000", "1,200"],
        ["sick", "0.500", "0.625", "300"],
        ["sick", "0.938", "1.000", "500"],
    ]


def test_the_operating_point_is_told_with_its_class(judged_tree):
    assert table(judged_tree, "Threshold") == [["0.312", "0.938", "0.438", "0.562", "–"]]  # noqa: RUF001
    assert "A frame is called sick from this probability on." in text(next(judged_tree.iter("main")))


def test_subgroups_stand_in_the_order_given(judged_tree):
    assert table(judged_tree, "Column") == [
        ["modality", "CT", "1,500", "0.875", "0.812", "0.750"],
        ["sex", "unknown", "500", "–", "–", "0.250"],  # noqa: RUF001
    ]


def test_what_shuffling_costs_stands_beside_the_importance(judged_tree):
    (charts,) = of_class(judged_tree, "charts")

    assert [[text(span) for span in caption.iter("span")] for caption in charts.iter("figcaption")] == [
        ["importance 0.250", "shuffled 0.062 ± 0.031"],
        ["importance 0.125"],
    ]


@pytest.mark.parametrize(
    ("is_of_model", "said"),
    [(True, "which made this model and kept together what it found"), (False, "which did not make this model")],
)
def test_leaks_are_counted_by_kind_with_the_run_that_found_them(judged, read, is_of_model, said):
    tree = read(render(dataclasses.replace(judged, leaks=dataclasses.replace(judged.leaks, is_of_model=is_of_model))))

    assert table(tree, "Kind") == [["near", "1,012", LEAKS["near"]], ["same_patient", "3", LEAKS["same_patient"]]]
    assert f"Found by run train-20250131T130000Z-0123ab, {said}; leaks/ lists them." in text(next(tree.iter("main")))


@pytest.mark.parametrize(
    ("n_drifted", "said"),
    [
        (1, "Retrain: 1 of 41 distributions are not as in training."),
        (0, "0 of 41 distributions are not as in training."),
    ],
)
def test_drift_says_retrain_when_something_has_drifted(judged, read, n_drifted, said):
    tree = read(render(dataclasses.replace(judged, drifts=dataclasses.replace(judged.drifts, n_drifted=n_drifted))))
    (section,) = (found for found in tree.iter("section") if found.get("id") == "predictions")

    assert said in [text(paragraph) for paragraph in section.iter("p")]
    assert "score-20250131T135900Z-4567cd" in text(section)
    assert table(section, "Distribution") == [
        ["lbp_3", "feature", "0.500", "0.375", "1,500", "drifted"],
        ["sick", "probability", "0.062", "0.125", "1,500", ""],
    ]


def test_a_loss_that_rounds_to_nothing_has_no_sign():
    assert (_decimal(-0.0004), _decimal(-0.0016), _decimal(0.0)) == ("0.000", "-0.002", "0.000")


def test_predictions_are_counted_by_class(tree):
    (section,) = (found for found in tree.iter("section") if found.get("id") == "predictions")

    assert "2,000 frames were scored." in text(section)
    assert [row[:3] for row in table(section, "Class")] == [["sick", "1,500", "75.0 %"], ["well", "500", "25.0 %"]]


def test_an_empty_section_says_which_job_fills_it(read):
    tree = read(render(bare_report(Accounting(0))))

    assert [text(sentence) for sentence in of_class(tree, "none")] == [
        "No files listed yet: run jobs/index.py.",
        "No file is in quarantine.",
        "No file was skipped.",
        "The recipe is empty, so nothing is measured: run jobs/extract.py with one.",
        "No sample frames were asked for: run jobs/report.py with a contact sheet in its configuration.",
        "No labels yet: run jobs/train.py with --labels FILE or --labels-from parent.",
        "No features yet: run jobs/extract.py.",
        "No model yet: run jobs/train.py.",
        "No predictions yet: run jobs/score.py.",
    ]
    assert not list(tree.iter("svg"))


def test_a_model_without_an_evaluation_is_not_called_missing(report):
    page = render(dataclasses.replace(report, evaluation=None))

    assert "The model was not evaluated: run <code>jobs/train.py</code>" in page
    assert "No model yet" not in page


def test_text_from_data_is_never_markup(report, read):
    evil = "<script>alert('$x$ & y')</script>\"'><img src=http://x>"
    evaluation = Evaluation([evil, "b"], [[1, 2], [3, 4]], [RocCurve(evil, [0, 1], [0, 1], 0.5)], {evil: 0.5})
    feature = dataclasses.replace(report.features[0], name=evil, histogram=Histogram([0, 1], {evil: [1], "b": [2]}))
    accounting = Accounting(1, 1, by_format={evil: 1}, by_modality={evil: 1}, skipped={evil: 1}, quarantined={evil: 1})
    tree = read(
        render(
            dataclasses.replace(
                report,
                run_id=evil,
                medspark_version=evil,
                spark_version=evil,
                warehouse=evil,
                recipe_id=evil,
                model_id=evil,
                recipe=[{"use": evil, evil: evil, "of": evil, "to": evil}],
                accounting=accounting,
                class_balance=[ClassCount(evil, evil, 1)],
                contact_sheet=[Sample(evil, {evil: np.zeros((2, 2), np.uint8)})],
                features=[feature],
                evaluation=evaluation,
                predictions=Predictions({evil: 1}),
            )
        )
    )

    assert not list(tree.iter("script"))
    assert [image.get("src")[:22] for image in tree.iter("img")] == ["data:image/png;base64,"]
    assert text(next(tree.iter("h1"))) == f"Report of run {evil}"
    assert table(tree, "#")[0][1] == evil
    assert text(of_class(tree, "sheet")[0]) == f"{evil}{evil}"


def test_no_text_about_a_model_is_markup(judged, read):
    evil = "<script>alert('$x$ & y')</script>\"'><img src=http://x>"
    evaluation = dataclasses.replace(
        judged.evaluation,
        drawn=evil,
        calibration=[CalibrationCurve(evil, [0.5], [0.5], [1])],
        subgroups=[Subgroup(evil, evil, 1)],
        operating_point=OperatingPoint(evil, 0.5),
    )
    tree = read(
        render(
            dataclasses.replace(
                judged,
                evaluation=evaluation,
                compared=[ComparedModel(evil, evil, 1, is_kept=True), ComparedModel("svm", "compare", 1)],
                leaks=Leaks(evil, {evil: 1}),
                drifts=Drifts(evil, 1, 1, [Drift(evil, evil, 0.5, 0.5, 1, is_drifted=True)]),
                contact_sheet=[],
            )
        )
    )

    assert not list(tree.iter("script"))
    assert not list(tree.iter("img"))
    assert table(tree, "Model")[0][:2] == [evil, evil]
    assert table(tree, "Column")[0][:2] == [evil, evil]
    assert table(tree, "Distribution")[0][:2] == [evil, evil]
    assert table(tree, "Kind") == [[evil, "1", ""]]
    assert text(next(tree.iter("main"))).count(evil) == 2 + 1 + 2 + 1 + 2 + 2 + 3


@pytest.mark.parametrize("name", ["report", "judged"])
def test_the_page_loads_nothing_and_runs_nothing(request, read, name):
    page = render(request.getfixturevalue(name))
    elements = list(read(page).iter())
    loads = {
        value
        for element in elements
        for name, value in element.items()
        if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    }
    policy = [element.get("content") for element in elements if element.get("http-equiv") == "Content-Security-Policy"]

    assert {value.partition(",")[0][:5] for value in loads if not value.startswith("#")} == {"data:"}
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {"script", "iframe", "object", "embed"} & {element.tag for element in elements}
    assert not re.findall(r"url\((?!#)|@import", page)
    assert not re.search(r"https?://", re.sub(r'xmlns(:xlink)?="[^"]*"', "", page))


def test_the_same_report_gives_the_same_bytes_whatever_matplotlib_is_told(report):
    first = render(report)
    with mpl.rc_context({"font.size": 31, "svg.fonttype": "path", "svg.hashsalt": "x", "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        second = render(report)
        after = dict(mpl.rcParams)

    assert first == second
    assert before == after


def test_no_id_stands_twice_on_the_page(judged, read):
    ids = Counter(element.get("id") for element in read(render(judged)).iter() if element.get("id"))

    assert ids["feature-1-0"] == ids["roc-0"] == ids["calibration-0"] == ids["archive"] == 1
    assert max(ids.values()) == 1


def test_every_color_variable_is_defined_in_light_and_in_dark(judged):
    page = render(judged)
    light, dark = page.split("@media screen and (prefers-color-scheme: dark)", 1)
    dark = dark[: dark.index("* {")]
    used = set(re.findall(r"var\(--([\w-]+)", page)) - {"share"}

    assert {"class-0", "class-1", "line", "soft", "accent"} < used
    assert used <= set(re.findall(r"--([\w-]+):", light))
    assert used <= set(re.findall(r"--([\w-]+):", dark))


@given(part=st.integers(0, 10**7), rest=st.integers(0, 10**7))
def test_a_share_is_nothing_or_everything_only_when_it_is_exactly_that(part, rest):
    shown = _percent(part, part + rest)

    assert (shown == "0 %") == (part == 0 < rest)
    assert (shown == "100 %") == (rest == 0 < part)
    if shown[0].isdigit():
        assert float(shown.removesuffix(" %")) == pytest.approx(100 * part / (part + rest), abs=0.0501)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Histogram([0, 1], {"sick": [1, 2]}), "histogram: 2 counts of 'sick' for 2 bin edges"),
        (lambda: RocCurve("sick", [0, 1], [0, 0.5, 1], 0.5), "ROC of 'sick': 2 false and 3 true positive rates"),
        (lambda: Evaluation(["a", "b"], [[1, 2]]), r"confusion matrix: the shape is \(1, 2\), 2 classes need \(2, 2\)"),
        (
            lambda: CalibrationCurve("sick", [0.1, 0.9], [0.5], [3, 4]),
            "calibration of 'sick': 2 probabilities, 1 shares and 2 counts",
        ),
        (lambda: Sample("x", {"edges": np.zeros((2, 2))}), "plane 'edges' is float64 of shape"),
        (lambda: Sample("x", {"edges": np.zeros((2, 2, 4), np.uint8)}), r"of shape \(2, 2, 4\); give uint8"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused_by_name(make, message):
    with pytest.raises(ContractError, match=message):
        make()


def test_sample_frames_come_with_a_word_about_burned_in_text(report):
    word = "text burned into their pixels can be read"

    assert word in render(report)
    assert word not in render(dataclasses.replace(report, contact_sheet=[]))

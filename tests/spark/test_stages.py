"""The stages do what Spark expects of stages, and say what the plain functions and scikit-learn say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from builders import make_pixels, make_png
from pyspark.errors import PythonException
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, MulticlassClassificationEvaluator
from pyspark.ml.feature import IndexToString, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder
from pyspark.sql import functions as F
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, roc_auc_score

from medspark.errors import ConfigError, ContractError
from medspark.models import MODELS
from medspark.recipe import Recipe
from medspark.spark import extract_features, read_images
from medspark.spark.stages import (
    BoostingClassifier,
    ClassifierModel,
    ForestClassifier,
    ImageFeatures,
    LogisticClassifier,
    SvmClassifier,
    TreeClassifier,
)

RECIPE = Recipe.from_dict({"features": [{"use": "first_order"}, {"use": "lbp", "points": 8, "radius": 1}]})
CANCER = load_breast_cancer(return_X_y=True)
WINE = load_wine(return_X_y=True)


def vectors(spark, X, codes, n_partitions=2):
    """A table of vectors, labels and the number of the row."""
    rows = [(i, Vectors.dense(row), float(code)) for i, (row, code) in enumerate(zip(X.tolist(), codes, strict=True))]
    return spark.createDataFrame(rows, ["i", "features", "label"]).repartition(n_partitions)


def said(table):
    """Return the probabilities and the predictions in the order of the rows."""
    rows = sorted(table.select("i", vector_to_array("probability"), "prediction").collect())
    return np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


def in_the_order_of_the_stage(X, codes):
    """Rows in the order that does not depend on partitions: by the bytes of features and label."""
    rows = sorted((np.array([*row, code]).tobytes(), i) for i, (row, code) in enumerate(zip(X, codes, strict=True)))
    order = [i for _, i in rows]
    return X[order], codes[order]


@pytest.fixture(scope="module")
def cancer(spark):
    return vectors(spark, *CANCER).cache()


@pytest.fixture(scope="module")
def wine(spark):
    return vectors(spark, *WINE).cache()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Twelve images, bright ones and dark ones in directories of their own, and one that is no image."""
    root = tmp_path_factory.mktemp("archive")
    for i in range(12):
        kind = "dark" if i % 2 else "bright"
        (root / kind).mkdir(exist_ok=True)
        pixels = make_pixels(seed=i) // (2 if kind == "dark" else 1)
        (root / kind / f"{i}.png").write_bytes(make_png(pixels))
    (root / "dark" / "broken.png").write_bytes(b"no image")
    return root


def paths(spark, archive):
    rows = [(str(path), path.parent.name) for path in sorted(archive.glob("*/*.png"))]
    return spark.createDataFrame(rows, "path string, kind string")


# Images into features


def test_the_rows_are_those_of_extract_features_with_the_same_numbers_as_a_vector(spark, archive):
    images = paths(spark, archive)
    rows = ImageFeatures(recipe=RECIPE).transform(images.drop("kind")).collect()
    plain = extract_features(images, RECIPE).where("failed_stage is null").collect()
    names = RECIPE.feature_names
    assert len(rows) == 12
    assert {row["path"]: row["features"].toArray().tolist() for row in rows} == {
        row["path"]: [row[name] for name in names] for row in plain
    }
    for name in ("content_sha256", "recipe_id", "rows", *names):
        assert {row["path"]: row[name] for row in rows} == {row["path"]: row[name] for row in plain}


def test_other_columns_come_out_beside_each_frame_and_no_row_is_doubled(spark, archive):
    images = paths(spark, archive)
    twice = images.unionByName(images.limit(3))
    found = ImageFeatures(recipe=RECIPE, outputCol="x").transform(images).select("path", "kind", "x").collect()
    assert {(row["path"], row["kind"]) for row in found} == {
        (row["path"], row["kind"]) for row in images.collect() if "broken" not in row["path"]
    }
    assert len(found) == 12
    assert ImageFeatures(recipe=RECIPE).transform(twice).count() == 15


def test_it_takes_what_read_images_gives_with_a_column_added(spark, archive):
    images = read_images(spark, str(archive)).withColumn("kind", F.element_at(F.split("path", "/"), -2))
    found = ImageFeatures(recipe=RECIPE).transform(images).collect()
    wanted = ImageFeatures(recipe=RECIPE).transform(paths(spark, archive)).collect()
    assert {(row["path"], row["kind"], row["features"]) for row in found} == {
        (row["path"], row["kind"], row["features"]) for row in wanted
    }
    assert "content" not in found[0].asDict()


def test_a_recipe_is_given_as_it_is_or_as_json():
    text = json.dumps(RECIPE.to_dict())
    assert ImageFeatures(recipe=RECIPE).getOrDefault("recipe") == text
    assert ImageFeatures(recipe=text).getOrDefault("recipe") == text
    assert Recipe.from_dict(json.loads(ImageFeatures().getOrDefault("recipe"))) == Recipe.from_toml("default")


@pytest.mark.parametrize("recipe", ["not JSON", "[]", '{"steps": [{"size": 5}]}', 5])
def test_what_is_no_recipe_is_refused_when_it_is_given(recipe):
    with pytest.raises(ConfigError):
        ImageFeatures(recipe=recipe)


def test_a_name_that_is_no_parameter_is_refused_and_the_near_one_told():
    with pytest.raises(ConfigError, match="ForestClassifier: unknown parameter 'deph'; did you mean 'depth'"):
        ForestClassifier(deph=3)


def test_the_stage_is_saved_and_loaded_with_its_recipe_and_its_name(tmp_path):
    stage = ImageFeatures(recipe=RECIPE, outputCol="x")
    stage.save(str(tmp_path / "stage"))
    loaded = ImageFeatures.load(str(tmp_path / "stage"))
    assert loaded.uid == stage.uid
    assert loaded.extractParamMap() == stage.extractParamMap()


# A forest


@pytest.mark.parametrize("n_partitions", [1, 3])
def test_the_forest_is_scikit_learns_whatever_the_partitions(spark, n_partitions):
    X, codes = WINE
    model = ForestClassifier(trees=11, depth=4, seed=5).fit(vectors(spark, X, codes, n_partitions))
    theirs = RandomForestClassifier(11, max_depth=4, random_state=5).fit(*in_the_order_of_the_stage(X, codes))
    table = model.transform(vectors(spark, X, codes))
    probability, prediction = said(table)
    np.testing.assert_array_equal(probability, theirs.predict_proba(X))
    np.testing.assert_array_equal(prediction, theirs.predict(X))
    assert model.numClasses == 3
    assert table.where("rawPrediction != probability").count() == 0


def test_scoring_is_one_python_node(cancer):
    table = ForestClassifier(trees=3).fit(cancer).transform(cancer)
    plan = table._jdf.queryExecution().executedPlan().toString()
    assert plan.count("ArrowEvalPython") == 1


def test_sparks_own_evaluators_take_what_comes_out(cancer):
    X, codes = CANCER
    train = cancer.where("i % 2 = 0")
    scored = ForestClassifier(trees=20, depth=5).fit(train).transform(cancer.where("i % 2 = 1"))
    odd = np.arange(len(codes)) % 2 == 1
    theirs = RandomForestClassifier(20, max_depth=5, random_state=42)
    theirs.fit(*in_the_order_of_the_stage(X[~odd], codes[~odd]))
    auc = roc_auc_score(codes[odd], theirs.predict_proba(X[odd])[:, 1])
    assert BinaryClassificationEvaluator(numBins=0).evaluate(scored) == pytest.approx(auc, abs=1e-12)
    accuracy = accuracy_score(codes[odd], theirs.predict(X[odd]))
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored) == pytest.approx(accuracy)


def test_a_class_that_no_row_has_keeps_its_place(spark):
    X, codes = CANCER
    model = ForestClassifier(trees=5, depth=3).fit(vectors(spark, X, 3 * codes))
    probability, prediction = said(model.transform(vectors(spark, X, codes)))
    assert model.labels == ["0", "1", "2", "3"]
    assert probability.shape == (len(X), 4)
    assert set(prediction) == {0.0, 3.0}
    assert not probability[:, 1:3].any()
    assert ((prediction == 3) == codes).mean() > 0.9


def test_names_of_classes_pass_through_the_metadata(wine):
    named = wine.withColumn(
        "kind", F.element_at(F.array(*map(F.lit, ["red", "white", "rose"])), F.col("label").cast("int") + 1)
    ).drop("label")
    stages = [
        StringIndexer(inputCol="kind", outputCol="label", stringOrderType="alphabetAsc"),
        ForestClassifier(trees=10),
        IndexToString(inputCol="prediction", outputCol="said"),
    ]
    model = Pipeline(stages=stages).fit(named)
    assert model.stages[1].labels == ["red", "rose", "white"]
    assert model.transform(named).where("said = kind").count() > 170
    assert {row["said"] for row in model.transform(named.drop("kind")).select("said").collect()} == {
        "red",
        "rose",
        "white",
    }


@pytest.mark.parametrize(
    ("stage", "kind", "parameters"),
    [
        (BoostingClassifier, "boosting", {"trees": 5, "learning_rate": 0.3}),
        (LogisticClassifier, "logistic", {"C": 0.5}),
        (SvmClassifier, "svm", {"kernel": "linear", "folds": 3}),
        (TreeClassifier, "tree", {"depth": 2}),
    ],
)
def test_every_other_kind_says_what_its_function_says(cancer, stage, kind, parameters):
    X, codes = CANCER
    by_hand = MODELS[kind].fit(*in_the_order_of_the_stage(X, codes), seed=7, **parameters)
    probability, prediction = said(stage(seed=7, **parameters).fit(cancer).transform(cancer))
    np.testing.assert_array_equal(probability, by_hand.predict_proba(X))
    np.testing.assert_array_equal(prediction, by_hand.predict_proba(X).argmax(axis=1))


def test_every_kind_of_model_has_a_stage():
    stages = (BoostingClassifier, ForestClassifier, LogisticClassifier, SvmClassifier, TreeClassifier)
    assert {stage.kind for stage in stages} == set(MODELS)


def test_sparse_vectors_are_taken(spark):
    rows = [(i, Vectors.sparse(3, {i % 3: 1.0 + i}), float(i % 2)) for i in range(12)]
    dense = [(i, Vectors.dense(vector.toArray()), label) for i, vector, label in rows]
    tables = [spark.createDataFrame(kind, ["i", "features", "label"]) for kind in (rows, dense)]
    sparse, same = (said(ForestClassifier(trees=4, depth=0).fit(table).transform(table))[0] for table in tables)
    np.testing.assert_array_equal(sparse, same)


# What cannot be learned from


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.0, 1.5], ContractError, "label holds other values than 0, 1, 2"),
        ([0.0, -1.0], ContractError, "label holds other values"),
        ([0.0, None], ContractError, "label holds other values"),
        ([0.0, 0.0], ContractError, "2 rows of 1 class"),
        (["a", "b"], ContractError, "label is string; number the classes first, with a StringIndexer"),
    ],
)
def test_unfit_labels_are_named(spark, labels, error, message):
    kind = "string" if isinstance(labels[0], str) else "double"
    numbers = spark.createDataFrame([(1.0, labels[0]), (2.0, labels[1])], f"x double, label {kind}")
    table = VectorAssembler(inputCols=["x"], outputCol="features").transform(numbers)
    with pytest.raises(error, match=message):
        ForestClassifier().fit(table)


def test_vectors_of_two_lengths_are_refused(spark):
    rows = [(Vectors.dense([1.0]), 0.0), (Vectors.dense([1.0, 2.0]), 1.0)]
    with pytest.raises(ContractError, match="not as long as others"):
        ForestClassifier().fit(spark.createDataFrame(rows, ["features", "label"]))


def test_a_vector_of_another_length_is_not_scored(spark, cancer):
    model = TreeClassifier().fit(cancer)
    with pytest.raises(PythonException, match="expected rows x 30, got shape"):
        model.transform(vectors(spark, CANCER[0][:4, :15], CANCER[1][:4])).collect()


def test_no_rows_are_refused_and_a_missing_column_is_named(cancer):
    with pytest.raises(ContractError, match="0 rows of 0 class"):
        ForestClassifier().fit(cancer.limit(0))
    with pytest.raises(ContractError, match="lacks kind"):
        ForestClassifier(labelCol="kind").fit(cancer)


@pytest.mark.parametrize("wrong", [{"trees": 0}, {"depth": -1}, {"max_features": "half"}])
def test_a_parameter_out_of_range_is_refused_on_the_driver(cancer, wrong):
    with pytest.raises(ConfigError):
        ForestClassifier(**wrong).fit(cancer)


# Params


def test_params_given_to_fit_or_copy_count_and_the_stage_stays_as_it_was(cancer):
    forest = ForestClassifier(trees=3, depth=2)
    copied = forest.copy({forest.depth: 5})
    assert (forest.getOrDefault("depth"), copied.getOrDefault("depth"), copied.getOrDefault("trees")) == (2, 5, 3)
    shallow, deep, told = (
        said(model.transform(cancer))[0]
        for model in (forest.fit(cancer), copied.fit(cancer), forest.fit(cancer, {forest.depth: 5}))
    )
    np.testing.assert_array_equal(deep, told)
    assert not np.array_equal(shallow, deep)
    assert forest.getOrDefault("depth") == 2


def test_the_columns_of_a_stage_are_those_of_its_model_and_can_be_others(cancer):
    table = cancer.withColumnsRenamed({"features": "x", "label": "y"})
    columns = {"featuresCol": "x", "predictionCol": "class", "probabilityCol": "p", "rawPredictionCol": "raw"}
    model = TreeClassifier(labelCol="y", **columns).fit(table)
    assert model.transform(table).columns == [*table.columns, "p", "raw", "class"]
    again = model.copy({model.predictionCol: "k"})
    assert again.transform(table).columns[-1] == "k"
    assert model.getPredictionCol() == "class"


def test_a_parameter_of_another_type_is_refused():
    with pytest.raises(TypeError, match="depth"):
        ForestClassifier(depth="deep")


def test_the_defaults_are_those_of_the_function():
    told = {param.name: value for param, value in ForestClassifier().extractParamMap().items()}
    assert (told["trees"], told["depth"], told["seed"], told["bootstrap"]) == (100, 3, 42, True)


# Pipelines


def test_a_pipeline_from_images_to_predictions_is_saved_and_loaded(spark, archive, tmp_path):
    images = paths(spark, archive)
    stages = [
        StringIndexer(inputCol="kind", outputCol="label", stringOrderType="alphabetAsc"),
        ImageFeatures(recipe=RECIPE),
        ForestClassifier(trees=10, depth=0),
    ]
    pipeline = Pipeline(stages=stages)
    pipeline.save(str(tmp_path / "pipeline"))
    model = Pipeline.load(str(tmp_path / "pipeline")).fit(images)
    scored = model.transform(images).select("path", "label", "prediction", "probability").collect()
    assert len(scored) == 12
    assert all(row["prediction"] == row["label"] for row in scored)

    model.save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    again = loaded.transform(images.drop("kind")).select("path", "prediction", "probability").collect()
    assert {(row["path"], row["prediction"], row["probability"]) for row in again} == {
        (row["path"], row["prediction"], row["probability"]) for row in scored
    }
    assert loaded.stages[2].uid == model.stages[2].uid
    assert loaded.stages[2].labels == ["bright", "dark"]


def test_the_features_are_for_sparks_own_estimators_too(spark, archive):
    images = paths(spark, archive).withColumn("label", (F.col("kind") == "dark").cast("double"))
    table = ImageFeatures(recipe=RECIPE).transform(images).cache()
    scored = LogisticRegression(regParam=0.1).fit(table).transform(table)
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored) == 1.0


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # Spark's, in each search
def test_cross_validation_finds_the_depth_that_scikit_learn_finds_best(spark, tmp_path):
    X, codes = CANCER
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(len(codes)) < 0.25, 1 - codes, codes)
    fold = np.arange(len(X)) % 3
    table = vectors(spark, X, noisy).withColumn("fold", (F.col("i") % 3).cast("int"))
    forest = ForestClassifier(trees=15, max_features="all")
    search = CrossValidator(
        estimator=forest,
        estimatorParamMaps=ParamGridBuilder().addGrid(forest.depth, [2, 0]).build(),
        evaluator=BinaryClassificationEvaluator(numBins=0),
        numFolds=3,
        foldCol="fold",
        parallelism=2,
    )
    found = search.fit(table)

    def auc(depth):
        theirs = RandomForestClassifier(15, max_depth=depth, max_features=None, random_state=42)
        for k in range(3):
            theirs.fit(*in_the_order_of_the_stage(X[fold != k], noisy[fold != k]))
            yield roc_auc_score(noisy[fold == k], theirs.predict_proba(X[fold == k])[:, 1])

    wanted = [np.mean(list(auc(depth))) for depth in (2, None)]
    np.testing.assert_allclose(found.avgMetrics, wanted, rtol=0, atol=1e-12)
    assert wanted[0] > wanted[1] + 0.01
    assert found.bestModel.model.trees.n_nodes.max() <= 7

    found.save(str(tmp_path / "search"))
    loaded = CrossValidatorModel.load(str(tmp_path / "search"))
    np.testing.assert_array_equal(said(loaded.transform(table))[0], said(found.transform(table))[0])


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # as above
def test_the_search_that_the_page_shows_finds_a_forest(cancer):
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text("utf-8")
    names = {}
    exec(re.search(r"^```python\n(# search.py.*?)^```$", page, re.MULTILINE | re.DOTALL)[1], names)  # noqa: S102 - ours
    table = cancer.selectExpr("*", "string(i) as path", "if(i % 7 = 0, null, string(i div 4)) as patient_id")
    found = names["search"](table)
    assert len(found.avgMetrics) == 4
    assert max(found.avgMetrics) > 0.98
    assert found.bestModel.kind == "forest"


# A model on disk


@pytest.fixture
def saved(cancer, tmp_path):
    model = ForestClassifier(trees=3, predictionCol="class").fit(cancer)
    model.save(str(tmp_path / "model"))
    return model, tmp_path / "model"


def test_a_model_is_plain_arrays_and_comes_back_as_it_was(cancer, saved):
    model, path = saved
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in (path / "arrays").glob("*.npy")}
    assert arrays.keys() == model.model.arrays().keys()
    for name, array in model.model.arrays().items():
        np.testing.assert_array_equal(arrays[name], array)
    loaded = ClassifierModel.load(str(path))
    assert (loaded.uid, loaded.labels, loaded.kind) == (model.uid, ["0", "1"], "forest")
    assert loaded.getPredictionCol() == "class"
    np.testing.assert_array_equal(
        said(loaded.transform(cancer).withColumn("prediction", F.col("class")))[0],
        said(model.transform(cancer).withColumn("prediction", F.col("class")))[0],
    )


def test_a_model_is_overwritten_only_if_told_so(saved, cancer):
    _, path = saved
    other = TreeClassifier().fit(cancer)
    with pytest.raises(Exception, match="already exists"):
        other.save(str(path))
    assert ClassifierModel.load(str(path)).kind == "forest"
    other.write().overwrite().save(str(path))
    assert ClassifierModel.load(str(path)).kind == "tree"


def test_a_file_uri_is_a_path(saved):
    model, path = saved
    model.write().overwrite().save(f"file:{path}")
    assert ClassifierModel.load(f"file:{path}").uid == model.uid


def test_another_file_system_is_refused(saved):
    with pytest.raises(ConfigError, match="a path without s3a:"):
        saved[0].save("s3a://bucket/model")


@pytest.mark.parametrize("name", ["value", "threshold"])
def test_a_changed_array_is_named(saved, name):
    file = saved[1] / "arrays" / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ContractError, match=f"{name}.npy: not as it was saved"):
        ClassifierModel.load(str(saved[1]))


def test_a_missing_array_is_named(saved):
    (saved[1] / "arrays" / "value.npy").unlink()
    with pytest.raises(ContractError, match=r"value.npy: missing"):
        ClassifierModel.load(str(saved[1]))


def test_a_kind_that_is_not_known_is_named(saved):
    (part,) = (saved[1] / "metadata").glob("part-*")
    part.write_text(part.read_text().replace('"kind":"forest"', '"kind":"woods"'))
    for checksum in (saved[1] / "metadata").glob(".*.crc"):
        checksum.unlink()
    with pytest.raises(ContractError, match="no model is of kind 'woods'"):
        ClassifierModel.load(str(saved[1]))

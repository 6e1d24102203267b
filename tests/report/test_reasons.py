from medspark import errors
from medspark.report.reasons import REASONS


def test_every_reason_code_of_the_tables_is_explained():
    quarantined = (
        "empty_file not_an_image truncated corrupt unsupported_format unsupported_transfer_syntax no_pixel_data "
        "too_large timeout crashed out_of_memory unreadable vanished step_failed"
    )
    skipped = "hidden directory_record not_selected duplicate"

    assert set(REASONS) == {*quarantined.split(), *skipped.split()}


def test_every_reason_that_a_reader_raises_is_explained():
    raised = {error.reason for error in errors.ImageError.__subclasses__() if error.__module__ == errors.__name__}

    assert raised <= set(REASONS)
    assert "truncated" in raised


def test_explanations_are_whole_sentences():
    for reason in REASONS.values():
        for sentence in reason:
            assert sentence[0].isupper() or sentence[0] == "`"
            assert sentence.endswith(".")
            assert sentence.count("`") % 2 == 0

"""notification.errors: the tree in the docstring is the tree of the code."""

from notification import errors


def test_the_docstring_draws_every_error() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    drawn = errors.__doc__ or ""
    for error in classes:
        assert error.__name__ in drawn
        assert issubclass(error, errors.HeraldError)


def test_invalid_input_names_field_and_rule() -> None:
    error = errors.InvalidInput("title", "must be short")
    assert (error.field, error.rule, str(error)) == ("title", "must be short", "title: must be short")

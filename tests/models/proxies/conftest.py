from backends import (  # noqa: F401 - fixtures
    _as_a_user_runs_it,
    _compile_loss,
    _differentiate,
    _needs_dense_labels,
    agree,
    compiler,
    in_double_precision,
    slopes_of,
)

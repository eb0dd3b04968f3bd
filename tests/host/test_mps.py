"""Operations that torch lacks for Apple's GPUs."""

import pytest

from nnunet_iac.host.mps import fallback_named

LACKING = (
    "The operator 'aten::max_pool3d_with_indices' is not currently implemented for the MPS device. "
    "If you want this op to be considered for addition please comment on an issue."
)
"""How torch's error begins."""


def test_an_operation_that_mps_lacks_is_an_error_that_names_the_fallback() -> None:
    message = (
        "it has no aten::max_pool3d_with_indices: set PYTORCH_ENABLE_MPS_FALLBACK=1, .* -device cpu"
    )
    with pytest.raises(RuntimeError, match=message) as raised, fallback_named():
        raise NotImplementedError(LACKING)
    assert raised.type is RuntimeError
    assert str(raised.value.__cause__) == LACKING


@pytest.mark.parametrize(
    "error", [NotImplementedError("no kernel for 'Meta'"), RuntimeError(LACKING), KeyError("a")]
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, fallback_named():
        raise error
    assert raised.value is error

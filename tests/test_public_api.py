"""The names that `nnunet_iac` exports."""

from importlib import import_module

import pytest

import nnunet_iac


@pytest.mark.parametrize("name", sorted(set(nnunet_iac.__all__) - {"__version__"}))
def test_a_public_name_is_that_of_its_module_and_has_a_docstring(name):
    found = getattr(nnunet_iac, name)
    assert found is getattr(import_module(found.__module__), name)
    assert found.__doc__
    assert name in dir(nnunet_iac)


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="module 'nnunet_iac' has no attribute 'Settings'"):
        _ = nnunet_iac.Settings

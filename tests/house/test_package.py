"""The package's front: what a script finds under `icnblocks.`"""

import pkgutil
import subprocess
import sys

import pytest

import icnblocks


def test_no_module_hides_a_function():
    """Importing icnblocks.x sets the attribute x: `icnblocks.pull` worked just once this way."""
    modules = {module.name for module in pkgutil.iter_modules(icnblocks.__path__)}
    assert modules.isdisjoint(icnblocks.__all__)


@pytest.mark.parametrize("name", icnblocks.__all__)
def test_what_is_promised_is_there(name):
    assert callable(getattr(icnblocks, name))


def test_what_is_not_promised_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        icnblocks.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    """Start-up time of the commands: numpy alone takes longer than their --help may."""
    script = "import sys, icnblocks; assert not {'numpy', 'aiohttp', 'blake3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)

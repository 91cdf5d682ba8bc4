"""carp-fast: CARP virtual-IP failover, tens of thousands of virtual hosts in one process.

The names below are the public interface, see docs/api.md; every other module is internal and may
change in any release. Each name is imported when it is first used, so that a program pays only for
what it needs, and nothing is imported here that Python has not loaded already: with ``python -m``
it would be looked for in the current directory.
"""

from importlib import import_module

TYPE_CHECKING = False  # a type checker takes it for true

__version__ = "0.1.0"

if TYPE_CHECKING:
    from carp_fast.capture.dump import Advertisement as Advertisement
    from carp_fast.capture.dump import Dump as Dump
    from carp_fast.config.load import load as load
    from carp_fast.config.model import Configuration as Configuration
    from carp_fast.config.model import ConfigurationError as ConfigurationError
    from carp_fast.config.model import VirtualHost as VirtualHost
    from carp_fast.control import documents as documents
    from carp_fast.control.client import AsyncControlClient as AsyncControlClient
    from carp_fast.control.client import ControlClient as ControlClient
    from carp_fast.control.protocol import ControlError as ControlError
    from carp_fast.control.protocol import ControlTimeout as ControlTimeout
    from carp_fast.engine import actions as actions
    from carp_fast.engine import reports as reports
    from carp_fast.engine._engine import Engine as Engine
    from carp_fast.engine._prepared import PreparedHost as PreparedHost
    from carp_fast.errors import CarpFastError as CarpFastError
    from carp_fast.simulate.run import Outcome as Outcome
    from carp_fast.simulate.run import Simulation as Simulation

# Where each public name is found: a module, or a name in one after the colon.
_PLACES = {
    "Advertisement": "capture.dump:Advertisement",
    "AsyncControlClient": "control.client:AsyncControlClient",
    "CarpFastError": "errors:CarpFastError",
    "Configuration": "config.model:Configuration",
    "ConfigurationError": "config.model:ConfigurationError",
    "ControlClient": "control.client:ControlClient",
    "ControlError": "control.protocol:ControlError",
    "ControlTimeout": "control.protocol:ControlTimeout",
    "Dump": "capture.dump:Dump",
    "Engine": "engine._engine:Engine",
    "Outcome": "simulate.run:Outcome",
    "PreparedHost": "engine._prepared:PreparedHost",
    "Simulation": "simulate.run:Simulation",
    "VirtualHost": "config.model:VirtualHost",
    "actions": "engine.actions",
    "documents": "control.documents",
    "load": "config.load:load",
    "reports": "engine.reports",
}

__all__ = ["__version__", *_PLACES]  # noqa: PLE0604


if not TYPE_CHECKING:  # a type checker knows the names, and reports others

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, found = _PLACES[name].partition(":")
        loaded = import_module(f"{__name__}.{module}")
        value = getattr(loaded, found) if found else loaded
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})

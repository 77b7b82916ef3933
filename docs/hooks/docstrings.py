"""What the reference needs beyond what can be read from the source: an extension for griffe."""

import importlib
import inspect
import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Mark the examples as code."""
        if obj.docstring:
            text = inspect.cleandoc(obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Give layers the signatures that their base classes and decorators make."""
        for module in (pkg["linen"], pkg["nnx"]):
            runtime = importlib.import_module(module.path)
            for name in runtime.__all__:
                init = griffe.Function("__init__", parameters=_parameters(getattr(runtime, name)))
                module[name].set_member("__init__", init)


def _parameters(layer: type) -> griffe.Parameters:
    """The arguments of a layer, without those that every Linen module has."""
    found = []
    for parameter in inspect.signature(layer.__init__).parameters.values():
        if parameter.name not in ("parent", "name"):
            default = parameter.default
            shown = getattr(default, "__name__", repr(default))
            kind = griffe.ParameterKind[parameter.kind.name.lower()]
            required = default is parameter.empty
            found.append(
                griffe.Parameter(parameter.name, kind=kind, default=None if required else shown)
            )
    return griffe.Parameters(*found)

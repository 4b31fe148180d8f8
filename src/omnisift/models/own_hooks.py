"""Forward hooks that act on the one module they were registered on, until they are removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import nn


class OwnHook:
    """A hook of one module.

    A copy of the module carries the hook too, and compiled code may call it after it was removed: it then does nothing.
    Dynamo does not trace it.
    """

    def __init__(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._module = ref(module)
        disable: Any = torch.compiler.disable
        self._hook: Callable[..., Any] | None = disable(hook)
        self._handle: Any = None

    @classmethod
    def before(cls, module: nn.Module, hook: Callable[..., Any]) -> OwnHook:
        """Register a pre-hook that gets the named arguments too.

        Args:
            module: the module.
            hook: as ``register_forward_pre_hook`` with ``with_kwargs`` takes it.
        """
        own = cls(module, hook)
        own._handle = module.register_forward_pre_hook(own, with_kwargs=True)
        return own

    @classmethod
    def after(cls, module: nn.Module, hook: Callable[..., Any], **options: bool) -> OwnHook:
        """Register a hook that runs after the module.

        Args:
            module: the module.
            hook: as ``register_forward_hook`` takes it.
            options: those of ``register_forward_hook``.
        """
        own = cls(module, hook)
        own._handle = module.register_forward_hook(own, **options)
        return own

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        """Call the hook if ``module`` is the one it was registered on."""
        if self._hook is None or module is not self._module():
            return None
        return self._hook(module, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnHook:
        return self  # the copy of the module is another module

    def __reduce__(self) -> tuple[Any, ...]:
        return _removed_hook, ()

    def remove(self) -> None:
        """Unregister the hook. A second call does nothing."""
        self._hook = None
        self._handle.remove()


def _removed_hook() -> OwnHook:
    """What a pickled hook becomes: one that does nothing."""
    hook = OwnHook.__new__(OwnHook)
    hook._hook = None
    return hook

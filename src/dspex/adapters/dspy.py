"""The DSPy adapter: programs that ask a language model, run by DSPy in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar

from dspex.adapters.asking import Asked, AskingAdapter
from dspex.adapters.base import Health, check_lm_config
from dspex.checks import check_inputs
from dspex.config import Config, DspySettings
from dspex.protection import Budget
from dspex.result import Result
from dspex.spec import ProgramSpec, asked_kind, with_learned_classes

if TYPE_CHECKING:
    from dspex.dspy.runner import DspyProgram

__all__ = ["DspyAdapter"]


class DspyAdapter(AskingAdapter):
    """Runs DSPy programs in this process: any signature, any kind, any `dspy.Module`.

    `examples` of a spec teach it only the classes of `str` outputs. The user's `dspy.settings` are read and
    never changed. Options of a call: `timeout`, in seconds, for all of its requests and tries; `lm`, the name
    or the settings of another LM.

    Args:
        config: LMs, limits and settings; a `Config` or a mapping.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """

    name: ClassVar[str] = "dspy"

    def __init__(self, config: Config | Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        from dspex.dspy.lms import LMs  # imports DSPy
        from dspex.dspy.loops import Loops

        self.lms = LMs(self.config)
        self._loops = Loops()

    def asked(self, spec: ProgramSpec, program_id: str, settings: DspySettings) -> Asked:
        from dspex.dspy.modules import build
        from dspex.dspy.runner import DspyProgram

        built = build(with_learned_classes(spec), program_id, allow_pickle=self.config.dspy_pool.allow_pickle)
        return DspyProgram(
            program_id,
            built,
            asked_kind(spec),
            lms=self.lms,
            lm=spec.lm,
            settings=settings,
            loops=self._loops,
            budget=Budget(settings.budget) if settings.budget is not None else None,
        )

    def concurrency(self, settings: DspySettings) -> int:
        return settings.concurrency

    def configure_lm(self, config: Mapping[str, Any]) -> None:
        """Sets the default LM of every program that names none, from the next call on.

        Args:
            config: settings of `LMSettings`, at least `model`.

        Raises:
            ConfigError: a setting that does not exist or does not fit.
        """
        self._store.require_open()
        self.lms.configure(check_lm_config(config))

    async def astream_program(
        self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[tuple[str, str] | Result, None]:
        """One call whose text outputs are passed on as they come: (output, piece of text), then the result.

        Raises:
            As `execute_program`.
        """
        with self._calling(program_id, options) as (held, program):
            held.calls += 1
            checked = check_inputs(program.signature, inputs, program=program_id)
            deadline, rest = program.deadline(options or {})
            asked: DspyProgram = program.asked  # type: ignore[assignment]
            async with aclosing(asked.astream(checked, deadline, **rest)) as items:
                async for item in items:
                    yield item

    def health_check(self) -> Health:
        """Whether every program has an LM that would be asked; nothing is sent to it."""
        if self.closed:
            return Health(False, "closed")
        runners = self.runners()
        for program_id, program in runners.items():
            refusal = program.asked.refusal()  # type: ignore[attr-defined]
            if refusal is not None:
                return Health(False, f"program {program_id!r}: {refusal.message}", len(runners))
        return Health(True, "every program has an LM that can be asked", len(runners))

    def get_stats(self) -> dict[str, Any]:
        return super().get_stats() | {"lms": self.lms.stats()}

    def close(self) -> None:
        """Forgets every program and closes connections. Requests with a deadline are cancelled; a call
        under way sends no more, and ends with an error if it needs one.
        """
        super().close()
        self._loops.close()
        self.lms.close()

"""What went wrong in DSPy, as an error of dspex; and what a failure of an LM means for the next try."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import dspy
import pydantic
from dspy.utils.exceptions import (
    AdapterParseError,
    ContextWindowExceededError,
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
    LMUnexpectedError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
    is_retryable_lm_error,
)

from dspex import errors
from dspex.dspy.calls import is_partly_sent
from dspex.protection import Verdict

__all__ = ["ToolFailed", "as_lm_errors", "judge", "translated"]


class ToolFailed(BaseException):
    """A tool raised. No Exception: DSPy's agents show those to the LM and go on."""

    def __init__(self, tool: str, error: Exception) -> None:
        super().__init__(tool, error)
        self.tool = tool
        self.error = error


class as_lm_errors:  # used as a function; a generator would cost a microsecond on every request
    """What an LM's own code raises, as an error of DSPy's for LMs: so that it counts, is tried again where
    that can help, and is not taken for the program's. Errors of DSPy and of dspex pass.
    """

    __slots__ = ("_lm",)

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, errors.DspexError):
            return
        cause = error.__cause__ if isinstance(error, LMUnexpectedError) else error
        model = self._lm.model
        if isinstance(cause, TimeoutError):
            raise LMTimeoutError(str(cause) or "it timed out", model=model) from cause
        if isinstance(cause, OSError):
            raise LMTransportError(str(cause) or type(cause).__name__, model=model) from cause
        # An LM of DSPy's own tells its errors itself; what else it raises is about how it was called.
        if not isinstance(error, LMError) and not isinstance(self._lm, dspy.LM):
            raise LMUnexpectedError(f"{type(error).__name__}: {error}", model=model) from error


def judge(error: BaseException) -> Verdict:
    """What a failed request says: try again? ask another LM? hold it against this one?"""
    if isinstance(error, errors.CallTimeoutError):  # the deadline cut it off
        return Verdict(retryable=False, retry_after=None, counts=True, fall_back=False)
    if isinstance(error, errors.DspexError) or not isinstance(error, LMError) or is_partly_sent(error):
        return Verdict(retryable=False, retry_after=None, counts=isinstance(error, LMError), fall_back=False)
    of_settings, of_request = _is_of_settings(error), isinstance(error, LMInvalidRequestError)
    return Verdict(
        retryable=is_retryable_lm_error(error) or _is_garbled(error),
        retry_after=getattr(error, "retry_after", None),
        counts=not (of_settings or of_request),
        fall_back=of_settings or not of_request,
    )


def _is_garbled(error: LMError) -> bool:
    """Whether a reply came that is no reply: what stands between here and the LM has broken it."""
    status = getattr(error, "status", None)
    return isinstance(error, LMProviderError) and status is not None and status < 400


def _is_of_settings(error: LMError) -> bool:
    """Whether the LM cannot be used as it is set up; another may be."""
    return isinstance(error, _OF_SETTINGS) or getattr(error, "status", None) == 404


_OF_SETTINGS = (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)


def translated(error: BaseException, program: str) -> errors.DspexError:
    """The error of dspex for whatever a DSPy program raised."""
    if isinstance(error, errors.DspexError):
        error.program = program
        return error
    if isinstance(error, ToolFailed):
        return _tool_error(error, program)
    if isinstance(error, AdapterParseError):
        return _parse_error(error, program)
    if isinstance(error, LMError):
        return _lm_error(error, program)
    return errors.ProgramError(
        f"the program raised {_told(error)}",
        program=program,
        hint="It came out of the DSPy program itself, see the cause",
    )


def _lm_error(error: LMError, program: str) -> errors.DspexError:
    told: dict[str, Any] = {"program": program, "retry_after": getattr(error, "retry_after", None)}
    message = _first_paragraph(error)
    if isinstance(error, LMTimeoutError):
        return errors.CallTimeoutError(f"the LM timed out: {message}", **told)
    if isinstance(error, LMTransportError):
        return errors.CommunicationError(f"the LM cannot be reached: {message}", **told)
    if _is_garbled(error):
        return errors.CommunicationError(f"the LM's reply cannot be read: {message}", program=program)
    if isinstance(error, LMRateLimitError):
        return errors.LMError(f"the LM's rate limit: {message}", retryable=True, **told)
    if isinstance(error, LMServerError):
        return errors.LMError(f"the LM failed: {message}", retryable=True, **told)
    if isinstance(error, ContextWindowExceededError):
        return errors.LMError(
            f"the prompt is too long for the LM: {message}", hint="Shorten the inputs or the demos", **told
        )
    if isinstance(error, LMAuthError | LMBillingError):
        hint = "Check the LM's api_key and account"
        return errors.LMError(f"the LM refused the credentials: {message}", hint=hint, **told)
    if isinstance(error, LMConfigurationError | LMUnsupportedFeatureError):
        return errors.ConfigError(
            f"the LM cannot be used as it is set up: {message}", field="lm", program=program
        )
    refused = errors.LMError(f"the LM refused: {message}", **told)
    if _is_of_settings(error):
        refused.hint = "Check the LM's model and api_base"
    return refused


def _first_paragraph(error: LMError) -> str:
    """Without the advice that follows, which is for those who use DSPy directly."""
    text = str(error).partition("\n\n")[0].strip()
    status = getattr(error, "status", None)
    return text if status is None else f"{text} (HTTP {status})"


def _parse_error(error: AdapterParseError, program: str) -> errors.DspexError:
    answer = error.lm_response if len(error.lm_response) <= 200 else error.lm_response[:197] + "..."
    field = _unparsed(error)
    which = "the signature" if field is None else f"output {field!r}"
    return errors.LMError(
        f"the LM's answer does not fit {which}: {answer!r}",
        field=field,
        program=program,
        hint="Ask a stronger LM, give demos, or set format to 'json'",
    )


def _unparsed(error: AdapterParseError) -> str | None:
    """The output of the asked predictor that is missing, or not of its type."""
    named = _UNPARSED.search(str(error))
    if named is not None:
        return named[1]
    parsed = error.parsed_result if isinstance(error.parsed_result, Mapping) else {}
    missing = [name for name in error.signature.output_fields if name not in parsed]
    return missing[0] if missing else None


_UNPARSED = re.compile(r"Failed to parse field (\w+)")


def _tool_error(error: ToolFailed, program: str) -> errors.DspexError:
    cause = error.error
    message = f"tool {error.tool!r} raised {_told(cause)}"
    hint = "Mend the tool, or set on_tool_error to 'observe' to show such errors to the LM"
    if isinstance(cause, errors.DspexError):  # its category and whether trying again helps are known
        known = type(cause)(message, program=program, field=error.tool, hint=cause.hint or hint)
        known.retryable, known.retry_after = cause.retryable, cause.retry_after
        return known
    return errors.ProgramError(message, program=program, field=error.tool, hint=hint)


def _told(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, pydantic.ValidationError):
        text = "; ".join(each["msg"] for each in error.errors(include_url=False, include_input=False))
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""Recording a step, improving the record, and running it again and again."""

from tinygan.replay.compiled import Compiled, compile
from tinygan.replay.evaluate import evaluate
from tinygan.replay.program import Line, Program, Value
from tinygan.replay.trace import trace

__all__ = ["Compiled", "Line", "Program", "Value", "compile", "evaluate", "trace"]

"""How every script starts, and fails: bad input ends in one line with its cause and its fix, and exit code 2."""

import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags, logging

from kronecker.runtime import interrupts, jax_settings, preemption
from kronecker.schema import config_files, dotted, keys

FLAGS = flags.FLAGS


def run(main: Callable[..., int | None], positional: bool = False, needs_config: bool = True) -> None:
    """Parses the flags, runs `main` and exits with the code that it returns (None: 0).

    Bad input is a ValueError, an OSError or a MemoryError: one line on stderr and exit code 2.  A loss that is not
    finite exits with 1, Ctrl-C with 130, another signal while training with 128 + its number; output that nobody reads,
    with 1 and no word.  Any other exception is a bug of ours: it prints its traceback and exits with 1.

    `main` has no argument or, if `positional`, the list of arguments that are not flags.  If `needs_config`, a script
    that defines the flag --config fails without it.
    """
    fault, saved = None, False
    try:
        interrupts.raise_exception()
        if {"-h", "--help"} & set(sys.argv[1:]):
            flag_help = FLAGS.main_module_help().replace("\n    (default: 'None')", "")
            print(f"{sys.modules['__main__'].__doc__}\nflags:\n{flag_help}")
            code = 0
        else:
            rest = _parse(sys.argv, needs_config)
            if rest and not positional:
                raise ValueError(f"unexpected argument {rest[0]!r}; flags begin with --; --help lists them")
            code = (main(rest) if positional else main()) or 0
        sys.stdout.flush()
        interrupts.end_silently()  # here, as Ctrl-C may come while this is done
    except BrokenPipeError:  # what read the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush at the end fails
        code = 1
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {'standard output: ' * _is_of_output(error)}{_one_line(error)}", file=sys.stderr)
        code = 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except preemption.Preempted as words:
        print(words, file=sys.stderr)
        code, saved = words.code, True
    except KeyboardInterrupt:
        interrupts.outlive_output()
        print(interrupts.WORDS, file=sys.stderr)
        code = interrupts.INTERRUPTED
    except Exception as error:  # noqa: BLE001  its traceback is printed; `leave` needs it
        storage = sys.modules.get("kronecker.runtime.storage")  # not every script imports it
        if line := jax_settings.without_platform(error):
            print(f"error: {line}", file=sys.stderr)
            code = 2
        elif storage and storage.is_of_access(error):
            print(f"error: {type(error).__name__}: {_one_line(error)}; run the same command again", file=sys.stderr)
            code = 2
        else:
            traceback.print_exc()
            code, fault = 1, error
    interrupts.end_silently()
    distributed = sys.modules.get("kronecker.runtime.distributed")  # not every script imports it
    if distributed and code and not saved:
        distributed.leave(code, fault)
    sys.exit(code)


def _parse(argv: Sequence[str], needs_config: bool) -> list[str]:
    logging.set_verbosity(logging.FATAL)  # libraries log errors that they also raise
    for argument in argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            remedy = "write texts in UTF-8, rename files, or set PYTHONUTF8=1"
            raise ValueError(f"argument {argument!r} is not UTF-8; {remedy}") from None
    if "config" in FLAGS:
        _check_config_flags(argv, needs_config)
    try:
        rest = FLAGS(argv)[1:]
    except (flags.Error, TypeError) as error:
        raise ValueError(_one_line(error)) from None
    for name, value in FLAGS.flag_values_dict().items():
        if "." in name:  # a key of the config, which is checked with the others
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name}={value}: it must be finite")
        if isinstance(value, int) and abs(value) > keys.COUNTABLE:
            raise ValueError(f"--{name}={value}: it must be at most {keys.COUNTABLE:,} in size")
        if isinstance(value, list) and FLAGS[name].present and not all(value or [""]):
            raise ValueError(
                f"--{name}={','.join(value)}: a name is empty; give names with commas between, or no --{name}"
            )
    return rest


def _check_config_flags(argv: Sequence[str], needed: bool) -> None:
    """Loads --config first, for short errors: those of config_flags are tracebacks in one line."""
    path = (FLAGS["config"].default_as_str or "").strip("'")  # `default` itself is a parsed config
    overrides = []
    for i, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            continue
        following = next((text for text in argv[i + 1 : i + 2] if not text.startswith("--")), None)
        if name == "config":
            path = value if equals else following or ""
        elif name.startswith(("config.", "noconfig.")):
            overrides.append((argument, following))
    if not path or path == "None":
        if not needed and not overrides:
            return
        raise ValueError("--config is missing; for example --config=configs/demo.py")
    loaded = config_files.load(path)
    for flag, following in overrides:
        dotted.check_override(loaded, flag, following)


def _is_of_output(error: BaseException) -> bool:
    """Returns whether what a script prints could not be written, as on a full disk; if so, ends trying."""
    if not isinstance(error, OSError) or error.errno is None or error.filename:
        return False
    try:
        print(flush=True)  # fails again, with what is kept in the buffer if there is one
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush at the end fails
        return True
    return False


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__

"""Programs by id, as a service holds them: the client face, and its errors."""

import dspex
from dspex import demo
from dspex.errors import InputError, ProgramError


def main() -> None:
    program = dspex.create_program(
        {
            "id": "intents",
            "signature": {"inputs": {"text": "str"}, "outputs": {"label": "str"}},
            "examples": demo.load(),
            "tags": ["support"],
        }
    )
    print(dspex.execute_program(program, {"text": "how do I end my ride?"}))

    info = dspex.get_program_info(program)
    print({key: info[key] for key in ("id", "adapter", "kind", "backend", "tags", "calls")})

    try:
        dspex.execute_program(program, {"texts": "how do I end my ride?"})
    except InputError as error:
        print(error)

    dspex.delete_program(program)
    try:
        dspex.execute_program(program, {"text": "anyone?"})
    except ProgramError as error:
        print(error)


if __name__ == "__main__":
    main()

"""What schemathesis does to a request before it is sent: it bounds the answer, for a thousand stories would take a day."""

import schemathesis

# Tokens, and where they are said. Sixteen is the least that the official document permits for responses.
BOUNDS = {
    "/chat/completions": (2, ("max_tokens", "max_completion_tokens")),
    "/completions": (2, ("max_tokens",)),
    "/responses": (16, ("max_output_tokens",)),
}


@schemathesis.hook
def before_call(context, case, kwargs):
    few, names = BOUNDS.get(case.path.removeprefix("/v1"), (0, ()))
    if not names or not isinstance(case.body, dict):
        return
    given = {name: case.body[name] for name in names if case.body.get(name) is not None}
    if not given:
        case.body = case.body | {names[-1]: few}
    elif case.meta is None or not case.meta.generation.mode.is_negative:
        # A bound that is wrong on purpose stays as it is.
        case.body = case.body | {name: min(n, few) for name, n in given.items()}

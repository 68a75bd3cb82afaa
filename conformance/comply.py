"""llm-comply with temperature 0 in each request: `comply.py OPTION…`, the options being its own. Its tests name no temperature, and
one of them in some dozens fails where so small a model talks on until its answer is cut off."""

import sys

from llm_comply import cli
from llm_comply.tests.open_responses import OPEN_RESPONSES_TESTS
from llm_comply.tests.openai_chat import OPENAI_CHAT_TESTS


def greedy(build):
    return lambda config: {"temperature": 0, **build(config)}


for test in OPEN_RESPONSES_TESTS + OPENAI_CHAT_TESTS:
    test.build_request = greedy(test.build_request)
sys.exit(cli.main())

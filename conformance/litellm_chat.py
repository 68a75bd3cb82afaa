"""litellm against our API: `litellm_chat.py BASE_URL MODEL`."""

import sys
from importlib.metadata import version

import litellm

base, model = sys.argv[1:3]
answer = litellm.completion(model=f"openai/{model}", api_base=base, api_key="any", max_tokens=8,
                            messages=[{"role": "user", "content": "Say hi"}])
assert answer.choices[0].message.content
print(f"litellm {version('litellm')}: as expected")

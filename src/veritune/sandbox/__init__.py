"""Running code that nobody trusts: policy, launcher, judge, canaries.

There is no unsafe fallback: where the sandbox does not hold, nothing is run.
"""

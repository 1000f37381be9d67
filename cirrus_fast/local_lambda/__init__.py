"""AWS Lambda on this machine: for tests, and to try a layer and handler without an account.

boto3 finds it by `endpoint_url`; each sandbox is one process of AWS's own runtime client, with
nothing on its path but the unpacked layer. docs/lambda.md says what is like AWS's and what is not.
"""

"""What the models on Amazon Bedrock have in common: the client, and its errors in words.

Credentials, region and addresses are boto3's own (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_BEDROCK_RUNTIME, …).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resources.errors import BadInput, Unavailable

RETRIES = 6  # of boto3, for 429, 5xx and broken connections
REFUSED = frozenset({"ValidationException", "RequestEntityTooLargeException", "413"})
"""Codes of errors that are the clip's fault."""
WITHOUT_RIGHTS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


def client(service: str, timeout_s: float) -> Any:
    """boto3's client, of a session of its own, since several threads ask. Raises Unavailable without a region."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    retries = {"mode": "standard", "total_max_attempts": RETRIES + 1}
    try:
        return boto3.Session().client(service, config=Config(retries=retries, read_timeout=timeout_s))
    except BotoCoreError as error:
        raise Unavailable(f"Amazon's services cannot be asked ({error}); set AWS_REGION.") from error


@contextmanager
def explained(model: str) -> Iterator[None]:
    """What boto3 raises within, in a sentence: BadInput where the clip is refused, else Unavailable."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code, said = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        status = error.response["ResponseMetadata"].get("HTTPStatusCode")
        if code in REFUSED or status == 413:
            raise BadInput(f"{model} refuses the clip ({code}: {said})") from error
        if code in WITHOUT_RIGHTS or status == 403:
            raise Unavailable(
                f"Amazon refuses the key ({code}: {said}): set credentials that may use {model} and its S3 folder, and "
                "enable the model in this region."
            ) from error
        raise Unavailable(
            f"{model} cannot be asked ({code}: {said}; {RETRIES} retries at most); try again later."
        ) from error
    except NoCredentialsError as error:
        raise Unavailable(
            f"There are no credentials for Amazon: set AWS_PROFILE, or a role, that may use {model}."
        ) from error
    except BotoCoreError as error:
        raise Unavailable(
            f"{model} did not answer ({type(error).__name__}); check the network and AWS_REGION."
        ) from error

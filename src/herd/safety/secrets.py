"""Rules about secrets: shapes that issuers gave their keys, key files, tokens that decode, and values assigned to
names like `password` that are random enough.

Samples are written in two pieces, so that scanners of repositories do not take them for keys that leaked.
"""

import base64
import binascii
import json
import re

from herd.safety.checksums import Span, whole
from herd.safety.cues import Cue
from herd.safety.forms import START
from herd.safety.issuers import ISSUERS, random
from herd.safety.rules import Pattern, Rule
from herd.safety.views import fold

_NAMES = (
    "password", "passwd", "pwd", "_pass", "passphrase", "secret", "token", "apikey", "api_key", "api-key", "accesskey",
    "access_key", "access-key", "privatekey", "private_key", "private-key", "authkey", "auth_key", "auth-key",
    "credentials", "credential", "bearer", "api key", "access key", "passwort", "kennwort", "mot de passe",
    "contraseña", "senha", "пароль", "密码", "密碼", "口令", "パスワード", "비밀번호", "รหัสผ่าน", "كلمة المرور",
    "كلمة السر",
    "पासवर्ड", "סיסמה",
)  # fmt: skip
"""Names that random values are assigned to."""

_FOLDED = tuple(fold(name, "plain") for name in _NAMES)

_IS = (
    r"(?:\s{0,4}+[:=]{1,2}+>?+\s{0,4}+|(?<=[Bb]earer) |\s{1,4}+(?:is|ist|lautet|est|es|é|è)[\s:]{1,4}+"
    r"|\s{0,2}+(?:は|是|为|為|는|은|คือ|هي|है)\s{0,2}+)"
)
"""What stands between a name and its value."""

_END = r"(?![A-Za-z0-9_-])"


def _web_token(found: str) -> Span | None:
    """Whether its first part is the header of a JSON web token; what follows may not have come yet."""
    head = found.split(".", 1)[0]
    try:
        text = base64.urlsafe_b64decode(head[: len(head) // 4 * 4]).decode("utf-8", "ignore")
        if "." in found and not isinstance(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))), dict):
            return None
    except (ValueError, RecursionError):
        return None
    return (0, len(found)) if '"alg"' in text or '"typ"' in text else None


def _login(found: str) -> bool:
    """Whether it is a name and a password, as the header of HTTP's basic authentication has them."""
    try:
        return ":" in base64.b64decode(found, validate=True).decode("utf-8", "strict").rstrip(":\n")
    except (binascii.Error, UnicodeDecodeError):
        return False


def _cue(*words: str, after: int = 4096) -> Cue:
    """What a key begins with; its pattern is tried there."""
    return Cue(tuple(word.lower() for word in words), after=after)


def _key(name: str, finds: str, regex: str, needs: tuple[str, ...], positive: tuple[str, ...], *no: str) -> Rule:
    """A shape that an issuer gave its keys."""
    pattern = Pattern(START + regex, cue=_cue(*needs))
    return Rule(f"secret.{name}", "secret", "high", finds, pattern, "[SECRET]", positive, no)


_A36 = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"

SECRETS = (
    *ISSUERS,
    _key("aws", "access key ids of AWS", r"(?:AKIA|ASIA)[A-Z0-9]{16}" + _END, ("AKIA", "ASIA"),
         ("AKIA" + "IOSFODNN7EXAMPLE",), "AKIA" + "IOSFODNN7", "XAKIA" + "IOSFODNN7EXAMPLE"),
    _key("slack", "tokens of Slack", r"xox[abeoprs]-[A-Za-z0-9-]{10,250}+", ("xox",),
         ("xoxb" + "-123456789012-" + _A36,), "xoxb-1", "xoxz-123456789012"),
    _key("slack_hook", "web hooks of Slack", r"hooks\.slack\.com/services/T[A-Za-z0-9_]{6,20}+/B[A-Za-z0-9_]{6,20}+/"
         r"[A-Za-z0-9]{16,64}+", ("hooks.slack.com",),
         ("https://hooks.slack.com" + "/services/T00000000/B00000000/" + _A36[:24],), "https://hooks.slack.com/docs"),
    _key("openai", "keys in OpenAI's form", r"sk-(?!ant-)(?:[a-z]{2,12}+-)?+[A-Za-z0-9_]{20,250}+"
         r"(?:-[A-Za-z0-9_]{1,250}+){0,8}+", ("sk-",),
         ("sk-" + _A36, "sk-" + "proj-" + _A36), "sk-short", "task-" + _A36, "sk-ant-" + _A36),
    Rule(
        "secret.private_key", "secret", "high", "private keys in PEM form, from the first line on",
        Pattern(
            r"-----BEGIN (?:(?!PRIVATE )[A-Z0-9]{1,16}+ ){0,3}+PRIVATE KEY(?: BLOCK)?+-----"
            r"(?:[A-Za-z0-9+/=\s:,.\\]|-(?!----)){0,16384}+(?:-----END [A-Z0-9 ]{0,60}+-----)?+",
            cue=_cue("-----BEGIN ", after=20_000),
        ),
        "[PRIVATE_KEY]",
        ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
         "-----BEGIN " + "PRIVATE KEY-----\nMIIEv", "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\n\nlQOY"),
        ("-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----", "BEGIN PRIVATE KEY"),
    ),
    Rule(
        "secret.jwt", "secret", "high", "JSON web tokens: the first part decodes to a header",
        Pattern(
            START + r"eyJ[A-Za-z0-9_-]{13,2048}+(?:\.[A-Za-z0-9_-]{0,8192}+){0,2}+",
            cue=_cue("eyJ", after=20_000), check=_web_token,
        ),
        "[JWT]",
        ("eyJhbGciOiJIUzI1NiIs" + "InR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",),
        ("eyJmb28iOiAiYmFyIn0.eyJzdWIiOiIxIn0.c2ln", "eyJ.a.b", "eyJhIjpb" + "W1tb" * 500 + ".a.b"),
    ),
    Rule(
        "secret.putty", "secret", "high", "private keys in PuTTY's form",
        Pattern(r"Private-Lines: \d{1,4}+\s{1,2}+(?:[A-Za-z0-9+/=]{1,80}+\s{1,2}+){0,200}+[A-Za-z0-9+/=]{0,80}+",
                cue=_cue("private-lines: ", after=20_000)),
        "[PRIVATE_KEY]",
        ("Private-Lines: 1\nAAAAgQ" + "CJ5xVQ==\nPrivate-MAC: 00",),
        ("Public-Lines: 1\nAAAAgQ==", "Private-Lines are secret"),
    ),
    Rule(
        "secret.basic", "secret", "high", "names and passwords in basic authentication",
        Pattern(r"(?<![A-Za-z])(?i:basic) {1,3}+([A-Za-z0-9+/]{8,512}+={0,2}+)", cue=_cue("basic "),
                check=whole(_login), group=1),
        "[SECRET]",
        ("Authorization: Basic " + base64.b64encode(b"user:passw0rd").decode(),),
        ("Authorization: Basic " + base64.b64encode(b"nothing here").decode(), "basic knowledge"),
    ),
    Rule(
        "secret.curl", "secret", "high", "passwords on curl's command line",
        Pattern(
            r"(?<![A-Za-z])curl(?:[^\n\-]|-(?!u[ \"']|-user[ =])){1,300}+-(?:u ?+|-user[ =])[\"']?+[^\s:\"'$]{1,64}+:"
            r"([^\s\"'$]{3,128}+)", cue=_cue("curl"), group=1,
        ),
        "[SECRET]",
        ("curl -s -u admin:hunter2 https://example.org", "curl --user 'me:h7Gk2pQ9' x"),
        ("curl -u admin https://example.org", "curl -u $USER:$PASS x", "curl https://example.org"),
    ),
    Rule(
        "secret.discord_bot", "secret", "high", "tokens of Discord's bots",
        Pattern(
            START + r"[MNO][A-Za-z0-9_-]{23,27}+\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}+",
            cue=Cue(regex=r"\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27}", before=30, after=40),
        ),
        "[SECRET]",
        ("MTAwMDAwMDAwMDAwMDAwMDAw" + ".GabcDe." + _A36,),
        ("MTAwMDAwMDAwMDAwMDAwMDAw" + ".GabcD." + _A36, "XTAwMDAwMDAwMDAwMDAwMDAw" + ".GabcDe." + _A36),
    ),
    Rule(
        "secret.url_password", "secret", "high", "passwords in URLs",
        Pattern(
            r"(?<=[A-Za-z0-9+.-])://[^\s/:@?#]{0,64}+:([^\s/@?#]{3,128}+)@[A-Za-z0-9]", cue=_cue("://"), group=1,
        ),
        "[SECRET]",
        ("postgres://app:hunter2@db.example.org/x",),
        ("https://example.org:8080/a@b", "http://user@host", "see https://a.example and mail me@b"),
    ),
    Rule(
        "secret.assigned", "secret", "medium", "random values assigned to names like password, token, secret, api_key",
        Pattern(
            r"(?i:" + "|".join(map(re.escape, _FOLDED)) + r")(?i:[_-]?+(?:key|id|value))?+[\"']?+" + _IS
            + r"[\"'`(]?+([A-Za-z0-9+/_=.~!$%^&*@#?-]{12,512}+)",
            cue=_cue(*_FOLDED), check=whole(random), group=1,
        ),
        "[SECRET]",
        ('password = "h7Gk2' + 'pQ9xZ4mR8w"', "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY",
         '{"api_key": "0f8fad5b' + 'd9cb469fa16570867728950e"}', "Authorization: Bearer " + _A36,
         "Passwort: h7Gk2" + "pQ9xZ4mR8w", "密码：h7Gk2" + "pQ9xZ4mR8w", "パスワードはh7Gk2" + "pQ9xZ4mR8w",
         "the password is h7Gk2" + "pQ9xZ4mR8w"),
        ("password = correcthorsebattery", "token: aaaaaaaa1111111111111", "secret = os.environ", "max_tokens=4096"),
    ),
)  # fmt: skip

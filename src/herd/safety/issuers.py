"""Rules about keys in the forms of those who issue them: what they begin with, how long they are, of what.

Sources: the issuers' documentation; what detect-secrets and gitleaks document that they look for. Keys without a form
of their own (40 hex digits) are looked for behind the issuer's name alone, as in `HEROKU_API_KEY=`.
"""

import math
from collections import Counter

from herd.safety.checksums import whole
from herd.safety.cues import Cue
from herd.safety.forms import RUNS, START, Form
from herd.safety.rules import Pattern, Rule

BITS = 3.0
"""Shannon entropy a character, over the value itself, from which an assigned value counts as random. Of 16 random hex
digits it is 3.2 on average; of words it is lower, and `random` wants digits among the letters, too."""

_UUID = "{H8}-{H4}-{H4}-{H4}-{H12}"

FORMS: dict[str, tuple[str, ...]] = {
    # named by the issuer; its keys' forms
    "1Password": ("A3-{u6}-{u11}-{u5}-{u5}-{u5}", "A3-{u6}-{u6}-{u5}-{u5}-{u5}-{u5}", "ops_eyJ{b250-2000}"),
    "Adafruit": ("aio_{a28}",),
    "Adobe": ("p8e-{H32}", "p8e_{w32}"),
    "age": ("AGE-SECRET-KEY-1{u58}",),
    "Airtable": ("pat{a14}.{h64}",),
    "Alibaba": ("LTAI{a20}", "LTAI{a12}"),
    "Amazon Bedrock": ("ABSK{b109-269}",),
    "Amazon MWS": ("amzn.mws." + _UUID,),
    "Anthropic": ("sk-ant-{w20-250}",),
    "Anyscale": ("esecret_{a24-40}",),
    "Artifactory": ("AKCp{a60-80}", "cmVmdGtu{a50-80}"),
    "Atlassian": ("ATATT3{w100-300}", "ATCTT3{w100-300}", "ATBB{a32}"),
    "Azure storage": ("AccountKey={b86}==", "SharedAccessKey={b43}=", "SharedSecretIssuer={b43}="),
    "Azure": ("{w3}8Q~{w31-34}", "{w3}7Q~{w31-34}"),
    "Beamer": ("b_{w44}",),
    "Braintree": ("access_token$production${l16}${h32}", "access_token$sandbox${l16}${h32}"),
    "Buildkite": ("bkua_{h40}",),
    "Cerebras": ("csk-{l48}",),
    "CircleCI": ("CCIPAT_{a22}_{h40}",),
    "ClickHouse": ("4b1d{a38}",),
    "Clojars": ("CLOJARS_{l60}",),
    "Cloudflare": ("v1.0-{h24}-{h146}",),
    "Contentful": ("CFPAT-{w43}",),
    "crates.io": ("cio{a32}",),
    "Databricks": ("dapi{h32}",),
    "Defined Networking": ("dnkey-{w26}-{w52}",),
    "Deno": ("ddp_{a36}", "ddo_{a36}"),
    "DigitalOcean": ("dop_v1_{h64}", "doo_v1_{h64}", "dor_v1_{h64}"),
    "Discord": ("discord.com/api/webhooks/{d17-20}/{w60-80}", "discordapp.com/api/webhooks/{d17-20}/{w60-80}"),
    "Docker": ("dckr_pat_{w27}", "dckr_oat_{w32}"),
    "Doppler": ("dp.pt.{a40-44}", "dp.st.{a40-44}", "dp.ct.{a40-44}", "dp.sa.{a40-44}", "dp.scim.{a40-44}",
                "dp.audit.{a40-44}", "dp.st.{w2-35}.{a40-44}"),
    "Dropbox": ("sl.{w130-300}", "sl.u.{w130-2000}"),
    "Duffel": ("duffel_live_{w43}", "duffel_test_{w43}"),
    "Dynatrace": ("dt0c01.{u24}.{u64}", "dt0s01.{u8}.{u64}", "dt0s16.{u8}.{u64}"),
    "EasyPost": ("EZAK{a54}", "EZTK{a54}"),
    "ElevenLabs": ("sk_{h48}",),
    "Facebook": ("EAAM{a100-400}", "EAAC{a100-400}", "EAAB{a100-400}", "EAAG{a100-400}"),
    "Figma": ("figd_{w38-48}",),
    "Fireworks": ("fw_{a22-24}",),
    "Flutterwave": ("FLWSECK-{h32}-X", "FLWSECK_TEST-{h32}-X", "FLWPUBK_TEST-{h32}-X"),
    "Fly.io": ("fo1_{w43}", "fm1a_{b100-1000}", "fm1r_{b100-1000}", "fm2_{b100-1000}"),
    "Frame.io": ("fio-u-{w64}",),
    "GitHub": ("ghp_{a36-251}", "gho_{a36-251}", "ghu_{a36-251}", "ghs_{a36-251}", "ghr_{a36-251}",
               "github_pat_{v60-251}"),
    "GitLab": tuple(f"gl{kind}-{{w20-300}}" for kind in (
        "pat", "dt", "ft", "soat", "rt", "cbt", "ptt", "imt", "agent", "oas", "rtr", "ffct", "wt")),
    "GoCardless": ("live_{w40}",),
    "Google": ("AIza{w35}", "GOCSPX-{w28}", "ya29.{w30-512}", "1//0{w40-250}",
               "private_key_id\": \"{h40}"),
    "Grafana": ("glc_{b32-400}", "glsa_{a32}_{H8}", "eyJrIjoi{b70-400}"),
    "Groq": ("gsk_{a52}",),
    "Harness": ("pat.{w22}.{h24}.{a20}", "sat.{w22}.{h24}.{a20}"),
    "Heroku": ("HRKU-AA{w58}", "HRKU-" + _UUID),
    "Honeycomb": ("hcaik_{l58}", "hcxik_{l58}"),
    "HubSpot": ("pat-na1-" + _UUID, "pat-na2-" + _UUID, "pat-eu1-" + _UUID),
    "Hugging Face": ("hf_{a34-40}", "api_org_{c34}"),
    "Infracost": ("ico-{a32}",),
    "Intra42": ("s-s4t2ud-{h64}", "s-s4t2af-{h64}"),
    "Jina": ("jina_{w60}",),
    "LangSmith": ("lsv2_pt_{h32}_{h10}", "lsv2_sk_{h32}_{h10}"),
    "Langfuse": ("sk-lf-" + _UUID,),
    "LaunchDarkly": ("sdk-" + _UUID, "mob-" + _UUID),
    "Lichess": ("lip_{a20}",),
    "Linear": ("lin_api_{a40}", "lin_oauth_{a64}"),
    "Lob": ("live_{h35}", "test_{h35}"),
    "Mailchimp": ("{h32}-us{d1-2}",),
    "Mailgun": ("key-{h32}", "pubkey-{h32}"),
    "Mapbox": ("sk.eyJ{w60-300}.{w22}",),
    "MaxMind": ("{a6}_{a29}_mmk",),
    "Microsoft Teams": ("webhook.office.com/webhookb2/" + _UUID + "@" + _UUID + "/IncomingWebhook/{a32}/" + _UUID,),
    "Netlify": ("nfp_{a36}",),
    "New Relic": ("NRAK-{u27}", "NRII-{w32}", "NRJS-{h19}", "NRIQ-{w32}", "NRAA-{h27}", "NRBR-{h19}"),
    "Notion": ("ntn_{a46}", "secret_{a43}"),
    "npm": ("npm_{a36}",),
    "NuGet": ("oy2{l43}",),
    "NVIDIA": ("nvapi-{w64}",),
    "Octopus": ("API-{u26}",),
    "OpenRouter": ("sk-or-v1-{h64}",),
    "OpenShift": ("sha256~{w43}",),
    "Perplexity": ("pplx-{a48}",),
    "Pinecone": ("pcsk_{v60-90}",),
    "Plaid": ("access-production-" + _UUID, "access-development-" + _UUID, "access-sandbox-" + _UUID),
    "PlanetScale": ("pscale_tkn_{w32-64}", "pscale_pw_{w32-64}", "pscale_oauth_{w32-64}"),
    "Postman": ("PMAK-{h24}-{h34}",),
    "Prefect": ("pnu_{a36}", "pnb_{a36}"),
    "Pulumi": ("pul-{h40}",),
    "PyPI": ("pypi-AgEIcHlwaS5vcmc{w50-1000}", "pypi-AgENdGVzdC5weXBpLm9yZw{w50-1000}"),
    "ReadMe": ("rdme_{l70}",),
    "Replicate": ("r8_{w37}",),
    "RubyGems": ("rubygems_{h48}",),
    "Scalingo": ("tk-us-{w48}",),
    "SendGrid": ("SG.{w22}.{w43}",),
    "Sendinblue": ("xkeysib-{h64}-{a16}", "xsmtpsib-{h64}-{a16}"),
    "Sentry": ("sntrys_eyJ{b60-500}", "sntryu_{h64}"),
    "SettleMint": ("sm_pat_{a16}", "sm_sat_{a16}", "sm_aat_{a16}"),
    "Shippo": ("shippo_live_{h40}", "shippo_test_{h40}"),
    "Shopify": ("shpat_{H32}", "shpca_{H32}", "shppa_{H32}", "shpss_{H32}"),
    "Sonar": ("squ_{h40}", "sqp_{h40}", "sqa_{h40}"),
    "Sourcegraph": ("sgp_{H40}", "sgp_{H16}_{H40}", "sgp_local_{H40}", "slk_{h64}"),
    "Square": ("sq0atp-{w22}", "sq0csp-{w43}", "sq0idp-{w22}", "EAAA{w60}"),
    "Stripe": ("sk_live_{a16-250}", "rk_live_{a16-250}", "sk_org_{a16-250}", "whsec_{b32-64}"),
    "Supabase": ("sbp_{h40}", "sb_secret_{w31}"),
    "Tailscale": ("tskey-auth-{a10-40}-{a20-60}", "tskey-api-{a10-40}-{a20-60}", "tskey-client-{a10-40}-{a20-60}"),
    "Tavily": ("tvly-{a32}", "tvly-dev-{w32}"),
    "Telegram": ("{d8-10}:AA{w33}",),
    "Tencent": ("AKID{a32}",),
    "Terraform Cloud": ("{a14}.atlasv1.{w60-70}",),
    "Together": ("tgp_v1_{w43}",),
    "Trello": ("ATTA{h64}",),
    "Twilio": ("SK{h32}", "AC{h32}"),
    "Twitter": ("AAAAAAAAAAAAAAAAAAAAA{a60-150}", "AAAAAAAAAAAAAAAAAAAAA{a10-40}%2B{a20-90}"),
    "Typeform": ("tfp_{a44}_{a14}", "tfp_{w59}"),
    "Vault": ("hvs.{w90-300}", "hvb.{w138-300}", "hvr.{w90-300}"),
    "xAI": ("xai-{a80}",),
    "Yandex": ("AQVN{w35-38}", "t1.{a7-200}.{w86}", "YC{w38}"),
    "Zoho": ("1000.{h32}.{h32}",),
}  # fmt: skip

NAMED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # keys without a form of their own: the words before them, their forms
    "Algolia": (("algolia",), ("{h32}",)),
    "Asana": (("asana",), ("{l32}", "{d1-2}/{d10-20}:{h32}")),
    "AWS secret": (("aws", "amazon"), ("{b40}",)),
    "Bitbucket": (("bitbucket",), ("{a32}", "{w64}")),
    "Bittrex": (("bittrex",), ("{l32}",)),
    "Cloudant": (("cloudant",), ("{h64}",)),
    "Codecov": (("codecov",), ("{l32}", _UUID)),
    "Cohere": (("cohere", "co_api_key"), ("{a40}",)),
    "Coinbase": (("coinbase",), ("{w64}",)),
    "Confluent": (("confluent",), ("{a64}", "{a16}")),
    "Datadog": (("datadog", "dd_api_key", "dd_app_key"), ("{h32}", "{h40}")),
    "Drone": (("droneci", "drone_token"), ("{a32}",)),
    "Etsy": (("etsy",), ("{l24}",)),
    "Fastly": (("fastly",), ("{w32}",)),
    "Finnhub": (("finnhub",), ("{l20}",)),
    "Flickr": (("flickr",), ("{l32}",)),
    "Freshbooks": (("freshbooks",), ("{l64}",)),
    "Gitter": (("gitter",), ("{w40}",)),
    "Intercom": (("intercom",), ("{w60}",)),
    "IBM Cloud": (("ibm", "bluemix", "watson"), ("{w44}", "{h48}")),
    "Kaggle": (("kaggle",), ("{h32}",)),
    "Kraken": (("kraken",), ("{b80-90}",)),
    "KuCoin": (("kucoin",), (_UUID, "{h24}")),
    "LinkedIn": (("linkedin",), ("{a14}", "{a16}")),
    "Looker": (("looker",), ("{a24}", "{a20}")),
    "Mattermost": (("mattermost",), ("{l26}",)),
    "MessageBird": (("messagebird",), ("{l25}",)),
    "Mistral": (("mistral",), ("{a32}",)),
    "Nytimes": (("nytimes", "newyorktimes"), ("{w32}",)),
    "Okta": (("okta", "ssws"), ("00{w40}",)),
    "PagerDuty": (("pagerduty",), ("{w20}", "{l32}")),
    "RapidAPI": (("rapidapi",), ("{w50}",)),
    "Sendbird": (("sendbird",), ("{h40}", _UUID)),
    "Sidekiq": (("sidekiq", "bundle_enterprise__contribsys__com", "bundle_gems__contribsys__com"), ("{h8}:{h8}",)),
    "Snyk": (("snyk",), (_UUID,)),
    "SoftLayer": (("softlayer",), ("{l64}",)),
    "Squarespace": (("squarespace",), (_UUID,)),
    "SumoLogic": (("sumologic", "sumo"), ("su{a12}", "{a64}")),
    "Travis": (("travis",), ("{w22}",)),
    "Twitch": (("twitch",), ("{l30}",)),
    "UUID key": (("heroku", "postmark", "scaleway", "secret", "api_key", "apikey", "api-key", "auth_token"), (_UUID,)),
    "Vercel": (("vercel",), ("{a24}",)),
    "Weights and Biases": (("wandb",), ("{h40}",)),
    "Yandex Cloud": (("yandex",), ("{a39}", "{w40}")),
    "Zendesk": (("zendesk",), ("{l40}",)),
}  # fmt: skip

_WORDS = (
    "application", "credential", "password", "consumer", "personal", "account", "private", "access", "bearer", "client",
    "deploy", "master", "public", "secret", "upload", "value", "admin", "oauth", "token", "auth", "pass", "prod",
    "test", "live", "user", "api", "app", "dev", "key", "pwd", "id",
)  # fmt: skip
"""What follows the issuer's name in the name of a key; those that begin others come behind them."""

_OF = rf"(?:[ _.-]?+(?:{'|'.join(_WORDS)}|v[0-9])s?+){{0,6}}+"
_IS = r"[\"'\])]{0,2}+[ \t]{0,4}+(?:[:=]=?+>?+|,)?+[ \t]{0,4}+[\"'(\[]{0,2}+"


def entropy(text: str) -> float:
    """Bits a character, from how often each occurs in the text."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def random(value: str) -> bool:
    """Whether a value looks drawn, not said: digits among letters, and few that come again."""
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and entropy(value) >= BITS


def _rule(issuer: str, finds: str, pattern: Pattern, positive: tuple[str, ...], negative: tuple[str, ...]) -> Rule:
    name = "".join(c if c.isalnum() else "_" for c in issuer.lower())
    return Rule(f"secret.{name}", "secret", "high", finds, pattern, "[SECRET]", positive, negative)


def _formed(issuer: str, texts: tuple[str, ...]) -> Rule:
    forms = [Form(text) for text in texts]
    words, before = zip(*(form.cue for form in forms), strict=True)
    cue = Cue(tuple(sorted(set(words))), before=max(before), after=max(form.most for form in forms) + 1, within=RUNS)
    pattern = Pattern(START + "(?:" + "|".join(form.regex for form in forms) + ")", cue=cue)
    samples = tuple(form.sample() for form in forms)
    near = (*(form.sample(less=1) for form in forms), *("Zz" + sample for sample in samples))
    return _rule(issuer, f"keys of {issuer}", pattern, samples, near)


def _named(issuer: str, words: tuple[str, ...], texts: tuple[str, ...]) -> Rule:
    forms = [Form(text) for text in texts]
    regex = f"(?i:(?:{'|'.join(words)}){_OF}){_IS}((?:{'|'.join(form.regex for form in forms)}))"
    cue = Cue(words, after=120 + max(form.most for form in forms), within=RUNS)
    pattern = Pattern(regex, cue=cue, check=whole(random), group=1)
    samples = tuple(f"{words[0].upper()}_API_KEY={form.sample()}" for form in forms)
    near = (*(form.sample() for form in forms), *(f"{words[0]} and {form.sample()}" for form in forms))
    return _rule(issuer, f"keys of {issuer} behind its name", pattern, samples, near)


ISSUERS = (
    *(_formed(issuer, texts) for issuer, texts in FORMS.items()),
    *(_named(issuer, words, texts) for issuer, (words, texts) in NAMED.items()),
)

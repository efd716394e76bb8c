"""Owns what the accounts API takes and shows. No hash, verifier or password is ever among what it shows."""

from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError as DjangoValidationError
from django.utils import timezone
from rest_framework import serializers

from accounts.models import Plan, ProxyKey, SignIn, User
from accounts.scope import MOST_ENTRIES, validate_model_patterns, validate_networks
from accounts.strict import LinesField, StrictSerializerMixin

LONGEST_PASSWORD = 256
_LARGEST_LIMIT = 2**31 - 1  # what the column holds


class PasswordField(serializers.CharField):
    def __init__(self, **options: Any) -> None:
        style = {"input_type": "password"}
        super().__init__(write_only=True, trim_whitespace=False, max_length=LONGEST_PASSWORD, style=style, **options)


def _check_strength(password: str, user: User, *, field: str) -> None:
    try:
        validate_password(password, user)
    except DjangoValidationError as error:
        raise serializers.ValidationError({field: error.messages}) from error


class SignupSerializer(StrictSerializerMixin):
    email = serializers.EmailField(max_length=254)
    password = PasswordField()

    def validate_email(self, value: str) -> str:
        """As it is stored: its domain may be longer there than it was written, or none any more."""
        address = User.objects.normalize_email(value)
        User._meta.get_field("email").run_validators(address)
        if not address.isascii():
            raise serializers.ValidationError("No mail can be sent to this address: it has no ASCII form.")
        return address

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        _check_strength(attrs["password"], User(email=attrs["email"]), field="password")
        return attrs


class LoginSerializer(StrictSerializerMixin):
    # no e-mail check: an address that cannot exist is answered as one that does not
    email = serializers.CharField(max_length=254)
    password = PasswordField()


class RefreshSerializer(StrictSerializerMixin):
    refresh = serializers.CharField(max_length=4096)


class LogoutSerializer(StrictSerializerMixin):
    refresh = serializers.CharField(max_length=4096, required=False)


class PasswordSerializer(StrictSerializerMixin):
    current = PasswordField()
    new = PasswordField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        _check_strength(attrs["new"], self.context["request"].user, field="new")
        return attrs


class EmailSerializer(StrictSerializerMixin):
    email = serializers.EmailField(max_length=254)


class NothingSerializer(StrictSerializerMixin):
    """A call that says all by its address."""


class DetailSerializer(serializers.Serializer[Any]):
    detail = serializers.CharField()


class TokenSerializer(StrictSerializerMixin):
    token = serializers.CharField(max_length=1024, help_text="From the link in the mail.")


class ResetSerializer(TokenSerializer):
    new = PasswordField()


class SignInSerializer(serializers.ModelSerializer[SignIn]):
    is_current = serializers.SerializerMethodField(help_text="Whether this very request belongs to it.")

    class Meta:
        model = SignIn
        fields = ["id", "created_at", "address", "expires_at", "ended_at", "is_current"]
        read_only_fields = fields

    def get_is_current(self, row: SignIn) -> bool:
        return bool(self.context["current"] == row.pk)


class PlanSerializer(serializers.ModelSerializer[Plan]):
    class Meta:
        model = Plan
        fields = [
            *("code", "name", "rpm", "tpm", "max_parallel", "rpd", "tpd", "tokens_month"),
            *("max_api_keys", "max_proxy_keys"),
        ]


class UserSerializer(StrictSerializerMixin, serializers.ModelSerializer[User]):
    plan = PlanSerializer(read_only=True)

    class Meta:
        model = User
        fields = ["id", "email", "name", "language", "limit_mails", "plan", "email_verified", "created_at"]
        read_only_fields = ["id", "email", "email_verified", "created_at"]


class TokensSerializer(serializers.Serializer[Any]):
    """What a sign-in answers, as its readers are told."""

    token = serializers.CharField(help_text="The access token.")
    refresh = serializers.CharField(help_text="The refresh token; it works once.")


class SignedInSerializer(TokensSerializer):
    user = UserSerializer()


class PasswordChangedSerializer(SignedInSerializer):
    proxy_keys_revoked = serializers.IntegerField()


def _limit() -> serializers.IntegerField:
    return serializers.IntegerField(min_value=1, max_value=_LARGEST_LIMIT, allow_null=True, required=False)


class ProxyKeySerializer(StrictSerializerMixin, serializers.ModelSerializer[ProxyKey]):
    allowed_models = LinesField(
        child=serializers.CharField(),
        required=False,
        max_length=MOST_ENTRIES,
        validators=[validate_model_patterns],
        help_text="Those it may ask for; a `*` ends the beginning of names. None: all.",
    )
    ip_allowlist = LinesField(
        child=serializers.CharField(),
        required=False,
        max_length=MOST_ENTRIES,
        validators=[validate_networks],
        help_text="Networks it may be used from, as in 203.0.113.0/24. None: anywhere.",
    )
    rpm = _limit()
    tpm = _limit()
    max_parallel = _limit()
    max_tokens = _limit()

    class Meta:
        model = ProxyKey
        fields = [
            "id",
            "name",
            "key_prefix",
            "status",
            "created_at",
            "last_used_at",
            "expires_at",
            "revoked_at",
            "allowed_models",
            "rpm",
            "tpm",
            "max_parallel",
            "max_tokens",
            "ip_allowlist",
        ]
        read_only_fields = ["id", "key_prefix", "status", "created_at", "last_used_at", "revoked_at"]
        # A refused text is shown again in the form: an input for times DRF fills by reading what it has just refused.
        extra_kwargs = {"expires_at": {"style": {"input_type": "text"}}}

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("Must be in the future; to end a key now, delete it.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        owner = self.instance.user if isinstance(self.instance, ProxyKey) else self.context["request"].user
        if excess := owner.plan.exceeded_by(attrs):
            raise serializers.ValidationError(excess)
        return attrs


class IssuedKeySerializer(ProxyKeySerializer):
    key = serializers.CharField(read_only=True, help_text="The proxy key; it is shown this once.")

    class Meta(ProxyKeySerializer.Meta):
        fields = [*ProxyKeySerializer.Meta.fields, "key"]

"""Owns the users' provider keys, encrypted at rest. Nothing here can be read back by anyone."""

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from accounts.ids import uuid7
from audit.trail import watch
from vault import crypto, keyring
from vault.providers import PROVIDERS, last4
from vault.secret import Secret

if TYPE_CHECKING:
    from vault.check import Verdict

# A label is shown in lists and log lines; a line break in it would forge one.
one_line = RegexValidator(r"^[^\x00-\x1f\x7f]*\Z", "A label has no line breaks or control characters.")
# The most that the column holds on PostgreSQL.
MAX_PRIORITY = 32_767


class Provider(models.TextChoices):
    OPENAI = "openai", "OpenAI"
    ANTHROPIC = "anthropic", "Anthropic"
    GOOGLE = "google", "Google"
    ALIBABA = "alibaba", "Alibaba"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self) -> "ApiKeyQuerySet":
        """Not known to be refused by their provider, in the order they are tried."""
        return self.filter(is_valid=True).order_by("provider", "priority", "created_at")


@watch(
    *("user", "provider", "label", "base_url", "priority", "is_valid", "last4", "master_key_id"),
    ignored=["iv", "mask_prefix", "fingerprint", "created_at", "last_used_at", "last_tested_at", "last_error"],
)
class ApiKey(models.Model):
    """A user's own key at a provider."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_keys")
    provider = models.CharField(max_length=20, choices=Provider.choices, help_text="Who issued the key.")
    label = models.CharField(
        max_length=80, blank=True, default="", validators=[one_line], help_text="Tells several keys apart."
    )
    encrypted_key = models.TextField(editable=False, help_text="Base64 of format, salt, commitment, ciphertext.")
    iv = models.BinaryField(max_length=12, editable=False, help_text="AES-GCM nonce.")
    master_key_id = models.PositiveIntegerField(editable=False, help_text="Which master key encrypts it.")
    last4 = models.CharField(max_length=4, editable=False, help_text="The key's last characters, for the mask.")
    mask_prefix = models.CharField(max_length=12, editable=False, default="", help_text="As in `sk-ant-`.")
    fingerprint = models.BinaryField(max_length=32, editable=False, help_text="Keyed hash; finds the same key.")
    base_url = models.CharField(
        max_length=200, blank=True, default="", editable=False, help_text="Empty: the provider's default."
    )
    priority = models.PositiveSmallIntegerField(
        default=100, validators=[MaxValueValidator(MAX_PRIORITY)], help_text="Lower is tried first."
    )
    is_valid = models.BooleanField(default=True, help_text="Off: its provider refused it; it is not used.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_tested_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.CharField(max_length=200, blank=True, default="", editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        db_table = "api_keys"
        verbose_name = "API key"
        permissions = [
            ("rewrap_apikey", "Can re-wrap API keys under the primary master key"),
            ("test_apikey", "Can test API keys at their providers"),
            ("invalidate_apikey", "Can take API keys out of use"),
        ]
        ordering = ["provider", "priority", "created_at"]
        constraints = [
            models.UniqueConstraint(fields=["user", "provider", "label"], name="api_keys_user_provider_label"),
            models.UniqueConstraint(fields=["user", "fingerprint"], name="api_keys_user_fingerprint"),
            models.CheckConstraint(condition=models.Q(provider__in=Provider.values), name="api_keys_provider_known"),
        ]
        indexes = [
            # serves: the re-wrap after a master key rotation, and the question which master keys are in use
            models.Index(fields=["master_key_id", "id"], name="api_keys_master_key"),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.masked}"

    @property
    def masked(self) -> str:
        """Like `sk-ant-***…abcd`: enough to tell it, nothing to use."""
        return f"{self.mask_prefix}***…{self.last4}"

    @property
    def context(self) -> crypto.Context:
        """What the ciphertext is bound to; `id`, `user`, `provider` and `base_url` must be set before `put`."""
        return crypto.Context(self.id, self.user_id, self.provider, self.base_url)

    @property
    def sealed(self) -> crypto.Sealed:
        return crypto.Sealed(self.encrypted_key, bytes(self.iv or b""), self.master_key_id)

    def put(self, secret: Secret) -> None:
        """Takes a new key, sealed under the primary master key; the caller saves. ValueError if it cannot be one."""
        key = secret.reveal()
        provider = PROVIDERS[self.provider]
        if wrong := provider.check_shape(key) or (self.base_url and provider.check_address(self.base_url)):
            raise ValueError(wrong)
        self.take(crypto.seal(secret, self.context, keyring.current()))
        self.last4, self.mask_prefix = last4(key), provider.mask_prefix(key)
        self.fingerprint = crypto.fingerprint(secret, self.user_id, self.provider)
        self.is_valid, self.last_error = True, ""

    def take(self, sealed: crypto.Sealed) -> None:
        self.encrypted_key, self.iv, self.master_key_id = sealed.encrypted_key, sealed.iv, sealed.master_key_id

    def unseal(self) -> Secret:
        """The key in clear, for one use. Raises crypto.Unsealable."""
        return crypto.unseal(self.sealed, self.context, keyring.current())

    def opens(self) -> bool:
        """Whether the master keys of this process open it."""
        try:
            self.unseal()
        except crypto.Unsealable:
            return False
        return True

    def ask_provider(self) -> "Verdict":
        """One call with this key; writes down how it went."""
        from vault.check import check_api_key  # loads httpx, a tenth of every start, for what most processes never do

        return check_api_key(self)

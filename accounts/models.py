"""Owns users, their plans and their proxy keys; knows nothing of provider keys, traffic or usage rows."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, Group, PermissionsMixin
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models.functions import Lower
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone
from django.utils.encoding import punycode

from accounts import epoch
from accounts.ids import uuid7
from accounts.keys import PREFIX, AccountChanged, KeyRevoked, PlanLimitReached
from accounts.scope import validate_model_patterns, validate_networks
from audit.models import Action
from audit.trail import record_each, watch

# Empty is no limit. 0 would be meant as that by some, and lets nothing through.
_LIMIT = [MinValueValidator(1)]


class Epochal(models.Model):
    """A row that the data plane keeps a copy of: saving a change bumps its epoch."""

    epoch = models.PositiveBigIntegerField(default=1, editable=False, help_text="Counts changes.")

    # A save of these fields alone is none of the data plane's business.
    quiet_fields: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        abstract = True

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        if self._state.adding:
            # nothing can hold a copy of what was not there
            super().save(*args, update_fields=update_fields, **kwargs)
            return
        # The epoch itself is never written from memory: a copy read a while ago would turn it back.
        if update_fields is None:
            update_fields = [field.name for field in self._meta.concrete_fields if not field.primary_key]
        fields = set(update_fields) - {"epoch"}
        with transaction.atomic():
            super().save(*args, update_fields=fields, **kwargs)
            if not fields <= self.quiet_fields:
                self.bump()

    def bump(self) -> None:
        raise NotImplementedError


@watch(
    *("name", "price", "rpm", "tpm", "max_parallel", "rpd", "tpd", "tokens_month", "max_api_keys", "max_proxy_keys"),
    ignored=["epoch"],
)
class Plan(Epochal):
    """What a user may do; one row a plan, edited by staff. An empty limit is no limit."""

    code = models.SlugField(primary_key=True, max_length=32, help_text="Short name, as in `free`.")
    name = models.CharField(max_length=80, help_text="Name shown to users.")
    price = models.DecimalField(
        max_digits=8,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="US dollars a month, as the landing page says; empty: by agreement.",
    )
    rpm = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Requests a minute, all keys together."
    )
    tpm = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Tokens a minute, all keys together."
    )
    max_parallel = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Requests under way at once, all keys together."
    )
    rpd = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Answered requests a day (UTC), all keys together."
    )
    tpd = models.PositiveBigIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Tokens a day (UTC), all keys together."
    )
    tokens_month = models.PositiveBigIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Tokens a calendar month (UTC), all keys together."
    )
    max_api_keys = models.PositiveIntegerField(default=5, help_text="Provider keys a user may store.")
    max_proxy_keys = models.PositiveIntegerField(default=5, help_text="Live proxy keys a user may have.")

    class Meta:
        db_table = "plans"
        ordering = ["code"]

    def __str__(self) -> str:
        return self.name

    def bump(self) -> None:
        epoch.bump_plan(self)

    def exceeded_by(self, limits: dict[str, Any]) -> dict[str, str]:
        """Which of a key's limits are larger than this plan's, each with what to say about it."""
        return {
            name: f"Your plan allows {allowed} at most."
            for name in ("rpm", "tpm", "max_parallel")
            if (allowed := getattr(self, name)) is not None and (limits.get(name) or 0) > allowed
        }


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, **{"is_staff": True, "is_superuser": True, **fields})

    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """Lower case as a whole, the domain in its ASCII form: one mailbox is one account, however it is written."""
        local, at, domain = (email or "").strip().rpartition("@")
        with suppress(UnicodeError):  # no domain at all; the field's validator says so
            domain = punycode(domain)
        return f"{local}{at}{domain}".lower()

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=self.normalize_email(username))


@watch(
    *("email", "name", "plan", "language", "limit_mails", "email_verified", "is_active", "is_staff", "is_superuser"),
    ignored=["epoch", "last_login", "created_at"],
    many=["groups", "user_permissions"],
)
class User(Epochal, AbstractBaseUser, PermissionsMixin):
    """A person; signs in by e-mail."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(max_length=254, unique=True, help_text="Signs in with it; lower case.")
    password = models.CharField(max_length=128, db_column="password_hash", help_text="Argon2id.")
    name = models.CharField(max_length=120, blank=True, help_text="What to call them.")
    plan = models.ForeignKey(
        Plan, on_delete=models.PROTECT, default="free", db_column="plan", help_text="Their limits."
    )
    language = models.CharField(
        max_length=8,
        choices=settings.LANGUAGES,
        default=settings.LANGUAGE_CODE,
        db_default=settings.LANGUAGE_CODE,
        help_text="Of the mails to them.",
    )
    limit_mails = models.BooleanField(
        default=True, db_default=True, help_text="A mail when 80 % and all of a limit of a day or month is used."
    )
    email_verified = models.BooleanField(default=False, help_text="They have shown that the address is theirs.")
    is_active = models.BooleanField(
        default=True, help_text="Off: cannot sign in, and every token and proxy key is refused at once."
    )
    is_staff = models.BooleanField(default=False, help_text="May enter this back-office.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    _password: str | None  # the new one, between set_password() and save(); Django's own
    # A password saved by set_password() is not quiet: save() sees to that. One saved without is the same password,
    # hashed anew at a login.
    quiet_fields = frozenset({"password", "last_login", "name", "language", "limit_mails"})

    class Meta:
        db_table = "users"
        constraints = [models.CheckConstraint(condition=models.Q(email=Lower("email")), name="users_email_lower_case")]
        permissions = [
            ("disable_user", "Can disable and enable users"),
            ("assign_plan", "Can change users' plans"),
            ("send_reset_mail_user", "Can send users a link to a new password"),
        ]
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.email

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        """A new password is saved alone unless fields are named: Django's forms and commands hold the row as it was
        before they hashed it, and who was disabled meanwhile would be enabled again."""
        has_new_password = self._password is not None and not self._state.adding
        if has_new_password and update_fields is None:
            update_fields = ["password"]
        with transaction.atomic():
            super().save(*args, update_fields=update_fields, **kwargs)
            if has_new_password:
                self.bump()
                self.revoke_proxy_keys()
            if has_new_password or not self.is_active:
                self.end_sign_ins()

    def set_unusable_password(self) -> None:
        """Signing in by password ends, and save() ends what came of the old one, as for any other new password."""
        super().set_unusable_password()
        self._password = ""

    def bump(self) -> None:
        epoch.bump_user(self)

    def change(self, **fields: Any) -> None:
        """Saves these fields. Raises AccountChanged when the account is gone."""
        with transaction.atomic():
            if User.objects.select_for_update(no_key=True).filter(pk=self.pk).first() is None:
                raise AccountChanged
            for name, value in fields.items():
                setattr(self, name, value)
            self.save(update_fields=list(fields))

    def disable(self) -> None:
        """Every token and proxy key is refused at once; enabling again brings the proxy keys back, not the tokens."""
        self.change(is_active=False)

    def enable(self) -> None:
        self.change(is_active=True)

    def change_plan(self, plan: Plan) -> None:
        self.change(plan=plan)

    def change_password(self, password: str) -> int:
        """Ends every sign-in and revokes every proxy key; how many keys that were. Raises AccountChanged."""
        shown = self.password
        self.set_password(password)  # slow: before the lock
        with transaction.atomic():
            self.locked(shown)  # a key being issued comes before us, or sees us
            revoked = self.proxy_keys.filter(revoked_at=None).count()
            self.save(update_fields=["password"])
        return revoked

    def end_sign_ins(self) -> int:
        return self.sign_ins.filter(ended_at=None).update(ended_at=timezone.now())

    def revoke_proxy_keys(self) -> int:
        return ProxyKey.objects.filter(user=self).revoke()

    def check_room_for_proxy_key(self) -> None:
        if self.proxy_keys.all().live().count() >= self.plan.max_proxy_keys:
            raise PlanLimitReached(self.plan.max_proxy_keys)

    def add_proxy_key(self, row: "ProxyKey") -> None:
        """Saves a new key, if the plan has room for it."""
        with transaction.atomic():
            # The lock makes two at once count each other.
            self.locked(self.password).check_room_for_proxy_key()
            row.save()

    def locked(self, password: str) -> "User":
        """The row, locked. AccountChanged if it is gone or disabled, or its password's hash is another by now: who knew
        the old password must get nothing after a change."""
        row = User.objects.select_for_update(no_key=True).filter(pk=self.pk).first()
        if row is None or row.password != password or not row.is_active:
            raise AccountChanged
        return row


class SignIn(models.Model):
    """One sign-in by e-mail and password: the family of the refresh tokens that follow each other from it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_ins")
    jti = models.CharField(max_length=32, editable=False, help_text="Id of its one refresh token that is still good.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    address = models.GenericIPAddressField(null=True, editable=False, help_text="Where they were.")
    expires_at = models.DateTimeField(editable=False, help_text="When that token ends by itself.")
    ended_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Its tokens are refused since.")

    class Meta:
        db_table = "sign_ins"
        verbose_name = "sign-in"
        permissions = [("end_signin", "Can end sign-ins")]
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.user_id} {self.created_at:%Y-%m-%d %H:%M}"


class ProxyKeyQuerySet(models.QuerySet["ProxyKey"]):
    def live(self) -> "ProxyKeyQuerySet":
        """Neither revoked nor expired."""
        return self.filter(revoked_at=None).exclude(expires_at__lte=timezone.now())

    def revoke(self) -> int:
        """How many were not revoked before. The workers are told of all, so that repeating a failed call helps."""
        with transaction.atomic():
            ids = list(self.values_list("pk", flat=True))
            # locked in one order: two revocations at once must not wait for each other
            rows = list(ProxyKey.objects.filter(pk__in=ids, revoked_at=None).order_by("pk").select_for_update())
            now = timezone.now()
            ProxyKey.objects.filter(pk__in=[row.pk for row in rows]).update(revoked_at=now, epoch=models.F("epoch") + 1)
            record_each(Action.REVOKE, rows, changes={"revoked_at": [None, now.isoformat()]})
            epoch.publish_on_commit(epoch.key_name(pk) for pk in ids)
        return len(rows)


@watch(
    *("user", "name", "key_prefix", "expires_at", "revoked_at", "allowed_models", "ip_allowlist"),
    *("rpm", "tpm", "max_parallel", "max_tokens"),
    ignored=["epoch", "last_used_at", "created_at"],
)
class ProxyKey(Epochal):
    """A `sk-proxy-…` key: what a client sends. Hashed at rest, shown once."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="proxy_keys")
    name = models.CharField(max_length=80, blank=True, help_text="What it is for.")
    key_prefix = models.CharField(max_length=20, unique=True, editable=False, help_text="`sk-proxy-` and its id.")
    key_hash = models.CharField(max_length=128, editable=False, help_text="Argon2id of the key.")
    verifier = models.BinaryField(max_length=33, editable=False, help_text="Pepper id and HMAC of the key.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Refused from then on; empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    allowed_models = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_model_patterns],
        help_text="Model names it may ask for; `*` ends a prefix. Empty: all.",
    )
    rpm = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Requests a minute; empty: the plan's."
    )
    tpm = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Tokens a minute; empty: the plan's."
    )
    max_parallel = models.PositiveIntegerField(
        null=True, blank=True, validators=_LIMIT, help_text="Requests under way at once; empty: the plan's."
    )
    max_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=_LIMIT,
        help_text="The most output tokens one request may ask for; empty: no cap.",
    )
    ip_allowlist = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_networks],
        help_text="Networks (CIDR) it may be used from. Empty: anywhere.",
    )

    objects = ProxyKeyQuerySet.as_manager()

    quiet_fields = frozenset({"name", "last_used_at", "verifier"})

    class Meta:
        db_table = "proxy_api_keys"
        permissions = [("revoke_proxykey", "Can revoke proxy keys")]
        ordering = ["-created_at"]
        indexes = [
            # serves: the owner's list, and the count against the plan
            models.Index(fields=["user", "-created_at"], name="proxy_keys_user_date"),
        ]

    def __str__(self) -> str:
        return f"{self.key_prefix}…"

    @property
    def key_id(self) -> str:
        """The 8 characters that a client's key and this row have in common."""
        return self.key_prefix.removeprefix(PREFIX)

    @property
    def status(self) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.is_live() else "expired"

    def is_live(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())

    def clean(self) -> None:
        if self.expires_at is not None and self._state.adding and self.expires_at <= timezone.now():
            raise ValidationError({"expires_at": "Must be in the future."})
        if self.user_id is not None:
            limits = {"rpm": self.rpm, "tpm": self.tpm, "max_parallel": self.max_parallel}
            if excess := self.user.plan.exceeded_by(limits):
                raise ValidationError(excess)

    def bump(self) -> None:
        epoch.bump_key(self)

    def change(self, **fields: Any) -> None:
        """Saves these fields. Raises KeyRevoked, and PlanLimitReached when it would bring back an expired key."""
        with transaction.atomic():
            owner = User.objects.select_for_update(no_key=True).get(pk=self.user_id)
            self.refresh_from_db(fields=["revoked_at", "expires_at"])
            if self.revoked_at is not None:
                raise KeyRevoked
            was_live = self.is_live()
            for name, value in fields.items():
                setattr(self, name, value)
            if not was_live and self.is_live():
                owner.check_room_for_proxy_key()
            # Even if nothing differs: repeating a call that was not published must publish.
            self.save(update_fields=list(fields))

    def revoke(self) -> None:
        """Refused from the next request on, on every worker. For good; the row stays."""
        ProxyKey.objects.filter(pk=self.pk).revoke()
        self.refresh_from_db(fields=["revoked_at", "epoch"])


watch("name", many=["permissions"])(Group)


# By signal, since the admin and cascades delete without calling delete() on a row.
@receiver(post_delete, sender=ProxyKey)
def _tell_key_gone(instance: ProxyKey, **kwargs: Any) -> None:
    epoch.publish_on_commit([epoch.key_name(instance.pk)])


@receiver(post_delete, sender=User)
def _tell_user_gone(instance: User, **kwargs: Any) -> None:
    epoch.publish_on_commit([epoch.user_name(instance.pk)])

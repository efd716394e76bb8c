"""What the commands of all apps share: how an operator names somebody."""

from django.core.management.base import CommandError

from accounts.models import User


def user_of(email: str) -> User:
    user = User.objects.filter(email=User.objects.normalize_email(email)).first()
    if user is None:
        raise CommandError(f"There is no user {email}.")
    return user

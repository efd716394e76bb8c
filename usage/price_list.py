"""Owns `GET /prices`: what the models cost now, by the book or by staff."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from usage.models import Price as StaffPrice
from usage.pricing import CLASSES, Dollars, Price, Prices
from vault.models import Provider


class PricesQuery(serializers.Serializer[Any]):
    provider = serializers.ChoiceField(Provider.choices, required=False)
    model = serializers.CharField(required=False, max_length=200)


class StepSerializer(serializers.Serializer[Any]):
    """Prices that hold for more input tokens than `above`; what is left out is billed as what it is part of."""

    above = serializers.IntegerField()

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        always = ("input", "output")
        return super().get_fields() | {name: serializers.CharField(required=name in always) for name in CLASSES}


class PriceSerializer(serializers.Serializer[Any]):
    provider = serializers.ChoiceField(Provider.choices)
    model = serializers.CharField()
    source = serializers.ChoiceField(["book", "staff"])  # type: ignore[assignment]  # DRF takes declared fields off the class
    since = serializers.DateTimeField(allow_null=True)
    context = serializers.IntegerField(allow_null=True)  # type: ignore[assignment]  # DRF takes declared fields off the class
    prices = StepSerializer(many=True)
    service_tiers = serializers.DictField(child=StepSerializer(many=True))


class PriceListSerializer(serializers.Serializer[Any]):
    """Dollars a million tokens, as its readers are told."""

    results = PriceSerializer(many=True)


class PriceList(APIView):
    """Dollars a million tokens, of all models or of those asked for; `model` takes any of a model's names."""

    permission_classes = [IsAuthenticated]

    @extend_schema(
        operation_id="listPrices",
        summary="What models cost now",
        parameters=[PricesQuery],
        responses=PriceListSerializer,
    )
    def get(self, request: Request) -> Response:
        query = PricesQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        prices = Prices(StaffPrice.objects.overrides())
        results = [
            {"provider": provider, "model": name, **_shown(price)}
            for provider in ([asked["provider"]] if "provider" in asked else Provider.values)
            for name, price in _asked_for(prices, provider, asked.get("model")).items()
        ]
        return Response({"results": results})


def _asked_for(prices: Prices, provider: str, model: str | None) -> dict[str, Price]:
    if model is None:
        return prices.listed(provider)
    price = prices.of(provider, model)
    return {} if price is None else {model: price}


def _shown(price: Price) -> dict[str, Any]:
    tiers = {tier: [_step(step) for step in steps] for tier, steps in price.dollars.items()}
    standard = tiers.pop("")
    return {
        "source": price.source,
        "since": price.since,
        "context": price.context,
        "prices": standard,
        "service_tiers": tiers,
    }


def _step(dollars: Dollars) -> dict[str, Any]:
    """Dollars are a string, which no reader rounds."""
    said = {name: getattr(dollars, name) for name in CLASSES}
    return {"above": dollars.above, **{name: f"{value:f}" for name, value in said.items() if value is not None}}

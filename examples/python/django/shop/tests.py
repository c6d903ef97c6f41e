"""Tests as Django people write them: each in a transaction, on the snapshot's data."""

from django.db import IntegrityError
from django.test import TestCase

from .models import Product


class Stock(TestCase):
    def test_what_is_sold_is_gone(self) -> None:
        Product.objects.get(pk=5).sell()
        self.assertEqual(Product.objects.get(pk=5).stock, 4)

    def test_what_is_not_there_is_not_sold(self) -> None:
        with self.assertRaises(IntegrityError):
            Product.objects.get(pk=10).sell()


class Data(TestCase):
    def test_they_are_the_snapshots(self) -> None:
        self.assertEqual(Product.objects.count(), 1000)

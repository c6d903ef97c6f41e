"""A table that the snapshot brings."""

from django.db import models


class Product(models.Model):
    name = models.TextField()
    stock = models.IntegerField()

    class Meta:
        managed = False
        db_table = "product"

    def sell(self) -> None:
        self.stock -= 1
        self.save()

"""As little as Django does with."""

import os

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
TEST_RUNNER = "runner.SnapshotRunner"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "shop",
        "TEST": {"ONDEMAND_DATASET": os.environ.get("SHOP_DATASET")},
    }
}

"""TLS for outputs: the receiver is always verified; there is no option that turns it off."""

from __future__ import annotations

import ssl

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.settings import MqttSettings, WebhookSettings


def tls_context(settings: MqttSettings | WebhookSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the certificates that the settings name. Raises InputError where these cannot be read."""
    place = settings.ca_file
    try:
        context = ssl.create_default_context(cafile=place)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate_file and settings.key_file:
            place = settings.certificate_file
            # An empty passphrase: OpenSSL would ask for one on the terminal of the service.
            context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    except ssl.SSLError as error:
        raise InputError(f"{place}: {error.reason or error}; give PEM files, the key without passphrase") from None
    except OSError as error:
        named = place if place == settings.ca_file else f"{place} and {settings.key_file}"
        raise InputError(f"{named}: {error.strerror}; give PEM files that this service may read") from None
    return context

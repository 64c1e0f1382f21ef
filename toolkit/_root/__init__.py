"""edgeasd: hear a valve, fan or pump, and say early that it no longer sounds normal."""

__version__ = "0.1.0"

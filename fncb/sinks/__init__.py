"""Where metrics go."""

from fncb.sinks.csv import csv as csv
from fncb.sinks.sink import Sink as Sink

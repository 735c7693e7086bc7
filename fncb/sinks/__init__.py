"""Where metrics go."""

from fncb.sinks.csv import csv as csv
from fncb.sinks.jsonl import jsonl as jsonl
from fncb.sinks.mlflow import mlflow as mlflow
from fncb.sinks.sink import Sink as Sink
from fncb.sinks.tensorboard import tensorboard as tensorboard
from fncb.sinks.trackio import trackio as trackio
from fncb.sinks.wandb import wandb as wandb

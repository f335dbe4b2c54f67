"""TensorFlow's own reader of TF_CONFIG."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
workers = resolver.cluster_spec().as_dict()["worker"]
print(f"{resolver.task_type} {resolver.task_id} of {len(workers)}, {len(set(workers))} addresses", flush=True)

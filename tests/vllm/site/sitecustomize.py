"""What vLLM built for the CPU needs to run under verl. Every Python process of such a test has this folder on its path.

* torchvision's wheel is linked to CUDA: vLLM's own processes import it without the plugin that mends that.
* vLLM packs the weights of linear layers for the CPU and drops the originals, into which verl writes new ones.
"""

from types import ModuleType

import wrapt


def _declare_operators(torch: ModuleType) -> None:
    from cinema_verl.utils.torchvision import ensure_torchvision_importable

    ensure_torchvision_importable()


def _keep_weights(utils: ModuleType) -> None:
    pack = utils.dispatch_cpu_unquantized_gemm
    utils.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: pack(layer, remove_weight=False)


wrapt.register_post_import_hook(_declare_operators, "torch")
wrapt.register_post_import_hook(_keep_weights, "vllm.model_executor.layers.utils")

"""Which family a method belongs to: what the plots colour and the table filters by."""

from __future__ import annotations

FAMILIES = {
    "low-rank": (
        "adalora adamss bd_lora deft_injection delora dora dylora glora gralora hira increlora inttune kasa lamda "
        "lamda_pp loha lokr lora lora_fa lora_plus mica miss mola monteclora nlora olora orthogonal_lora peanut pissa "
        "riemannian_lora rslora slora sora tlora triadaptlora velora"
    ),
    "shared or random bases": "frod lily mos nola pvera randlora s2lora sharelora tinylora unilora vblora vera",
    "orthogonal": "boft goft hra oft psoft qgoft road",
    "spectral": "c3a fourierft loldu osf svfit waveft",
    "adapters": "adamix compacter compacter_pp houlsby mam parallel_adapter pfeiffer sparseadapter",
    "prompts": "p_tuning prefix_tuning prompt_tuning",
    "biases, scales, sparse parts": "beft bitfit ia3 ln_tuning shira supertuning",
    "references": "full linear_probe",
}
"""The methods of each family, by their names in `conf/method`."""
OTHER = "other"
"""The family of every method that stands in no other."""
NAMES = (*FAMILIES, OTHER)

_FAMILY_OF = {method: family for family, methods in FAMILIES.items() for method in methods.split()}


def family_of(method: str) -> str:
    """The family of the method called so in `conf/method`."""
    return _FAMILY_OF.get(method, OTHER)

// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Files. Base weights are one safetensors file with the model's own names; an adapter is HF PEFT's two files,
// adapter_config.json and adapter_model.safetensors, with PEFT's keys, so that Python loads them and the other way
// round. A failed save leaves the old files whole; a failed load leaves the model as it was.
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "veneer/adapt.h"

namespace veneer {

// Base weights, before or after adapt. Strict: missing and unexpected names and wrong shapes are listed in the error. A
// DoRA adapter that has not been trained yet starts anew from the loaded weights.
void load_weights(torch::nn::Module& module, const std::string& path);
// The base's own parameters and buffers, without adapters. Refused while merged: unmerge, or merge_and_unload. The
// file's folder is made if need be.
void save_weights(const torch::nn::Module& module, const std::string& path);

// Writes the two files of one adapter into a folder, which is made if need be.
void save_adapter(const torch::nn::Module& module, const std::string& directory,
                  const std::string& adapter = "default");
// Reads them as a new adapter. Strict: missing and unexpected keys and wrong shapes are listed in the error. The layers
// are those that the file's target_modules name or, without them, those that its keys name. `trainable`: to train on.
Report load_adapter(torch::nn::Module& module, const std::string& directory, const std::string& adapter = "default",
                    bool trainable = false);

}  // namespace veneer

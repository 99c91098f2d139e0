// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Everything a program needs to adapt a LibTorch model.
#pragma once

#include "veneer/adapt.h"
#include "veneer/adapter_options.h"
#include "veneer/checkpoint.h"
#include "veneer/hidden_site.h"
#include "veneer/linear.h"
#include "veneer/safetensors.h"

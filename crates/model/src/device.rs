//! Which device computes, chosen at run time among those that were built in.

use thiserror::Error;

/// Where stages compute.
#[derive(Debug, Clone)]
pub enum Device {
    /// The processor, by our own passes.
    Host,
    /// What burn runs on.
    #[cfg(feature = "burn")]
    Burn(burn::tensor::Device),
}

/// Why no device was opened.
#[derive(Debug, Error)]
#[error("no device `{name}` in this program (it has: {})", available().join(", "))]
pub struct DeviceError {
    name: String,
}

/// Names of the devices that this program was built with.
pub fn available() -> Vec<&'static str> {
    let mut names = vec!["cpu"];
    if cfg!(feature = "burn") {
        names.push("cpu-burn");
    }
    if cfg!(feature = "vulkan") {
        names.push("vulkan");
    }
    if cfg!(feature = "metal") {
        names.push("metal");
    }
    if cfg!(feature = "cuda") {
        names.push("cuda");
    }
    names
}

/// Opens a device by name. `cpu-burn` computes on the processor as burn does it on other devices.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    #[cfg(feature = "burn")]
    use burn::tensor::Device as Burn;
    match name {
        "cpu" => Ok(Device::Host),
        #[cfg(feature = "burn")]
        "cpu-burn" => Ok(Device::Burn(Burn::flex())),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::Burn(Burn::vulkan(burn::tensor::DeviceKind::DefaultDevice))),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::Burn(Burn::metal(burn::tensor::DeviceKind::DefaultDevice))),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::Burn(Burn::cuda(0))),
        _ => Err(DeviceError { name: name.to_owned() }),
    }
}

//! Which device computes, chosen at run time among those that were built in.

use thiserror::Error;

/// Where stages compute.
#[derive(Debug, Clone)]
pub enum Device {
    /// The processor, by our own passes.
    Host,
    /// What burn runs on.
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
    let mut names = vec!["cpu", "cpu-burn"];
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
    use burn::tensor::Device as Burn;
    Ok(Device::Burn(match name {
        "cpu" => return Ok(Device::Host),
        "cpu-burn" => Burn::flex(),
        #[cfg(feature = "vulkan")]
        "vulkan" => Burn::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Burn::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Burn::cuda(0),
        _ => return Err(DeviceError { name: name.to_owned() }),
    }))
}

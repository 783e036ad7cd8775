// What firmware says of a port that leads outside (Thunderbolt, USB4): the root port at 08.0 of the test laptop. Compiled by
// iasl (acpica-tools) into external-port.aml.
// https://learn.microsoft.com/en-us/windows-hardware/drivers/pci/dsd-for-pcie-root-ports
DefinitionBlock ("", "SSDT", 2, "WARDER", "EXTPORT", 0x00000001)
{
    External (\_SB.PCI0.S40, DeviceObj)
    Scope (\_SB.PCI0.S40)
    {
        Name (_DSD, Package ()
        {
            ToUUID ("efcc06cc-73ac-4bc3-bff0-76143807c389"),
            Package () { Package () { "ExternalFacingPort", 1 }, Package () { "UID", 0 } }
        })
    }
}

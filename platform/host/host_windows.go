package host

import (
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// text reads a string of the registry.
func text(path, name string) string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return ""
	}
	defer k.Close()
	v, _, err := k.GetStringValue(name)
	if err != nil {
		return ""
	}
	return v
}

// boot is the number that the loader increases at each boot. With "fast startup", a shutdown hibernates the kernel,
// which then continues under the same number, as it should.
func boot() string {
	const path = `SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters`
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return ""
	}
	defer k.Close()
	n, _, err := k.GetIntegerValue("BootId")
	if err != nil {
		return ""
	}
	return machine() + "-" + strconv.FormatUint(n, 10)
}

func machine() string { return text(`SOFTWARE\Microsoft\Cryptography`, "MachineGuid") }

func version() string {
	v := windows.RtlGetVersion()
	return fmt.Sprintf("Windows %d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
}

func serial() string { return text(`HARDWARE\DESCRIPTION\System\BIOS`, "SystemSerialNumber") }

func uptime() time.Duration { return 0 } // nothing needs it here

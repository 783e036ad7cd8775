package host

import "testing"

func TestHost(t *testing.T) {
	h := Describe()
	if h.Name == "" || h.OS == "" || h.Arch == "" || h.Version == "" {
		t.Errorf("%+v", h)
	}
	if b := Boot(); b == "" || b != Boot() {
		t.Errorf("the boot is called %q", b)
	}
	if m := Machine(); len(m) != 32 || m != Machine() {
		t.Errorf("the machine is called %q", m)
	}
}

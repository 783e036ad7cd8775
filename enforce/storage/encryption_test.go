package storage

import (
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// An exception for a file system that is not encrypted, by any place where it is mounted; and for no other.
func TestEncryptionExcepted(t *testing.T) {
	volumes := fact.Is([]fact.Volume{{Dev: "8:1", Mount: "/", FS: "ext4", Encrypted: fact.Is(true)},
		{Dev: "8:2", Mount: "/srv/data", Also: []string{"/mnt"}, FS: "xfs", Encrypted: fact.Is(false), Leaf: "p2"}})
	m := &fact.Machine{Volumes: volumes, Capable: map[string]fact.Capability{string(settingEncryption): {Level: fact.DetectOnly}}}
	for _, x := range []struct {
		subject string
		want    enforce.Compliance
		says    string
	}{
		{"mount:/srv/data", enforce.Compliant, "1 file system(s) and swap(s) are encrypted; an exception is in force for /srv/data (xfs)"},
		{"mount:/mnt", enforce.Compliant, "an exception is in force for /srv/data"},
		{"mount:/srv", enforce.Noncompliant, "/srv/data (xfs) is not encrypted"},
		{"disk:/srv/data", enforce.Noncompliant, "/srv/data (xfs) is not encrypted"},
	} {
		if got, err := parseSubject(x.subject); got != x.subject || err != nil {
			t.Errorf("%s: %q %v", x.subject, got, err)
		}
		d := document(t, `{"storage":{"encryption_required":true}}`).Excepted(map[string][]string{"storage": {x.subject}})
		f := decide(section.Open([]section.Section{Section, {Name: "usb"}}, d, m)).Findings[0]
		if f.Compliance != x.want || !strings.Contains(f.Reason, x.says) {
			t.Errorf("%s: %s %q", x.subject, f.Compliance, f.Reason)
		}
	}
	for _, bad := range []string{"mount:", "mount:srv", "mount:/srv/", "mount:/srv/../etc", "mount:/a\x1b", "mount:/" + strings.Repeat("a", maxPoint)} {
		if _, err := parseSubject(bad); err == nil || !strings.Contains(err.Error(), "must be where a file system is mounted") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestEncryption(t *testing.T) {
	yes := func(at string, also ...string) fact.Volume {
		return fact.Volume{Dev: "8:1", Mount: at, Also: also, FS: "ext4", Encrypted: fact.Is(true),
			Chain: []string{"dm-0 (crypt aes) > p1"}}
	}
	no := func(at string, also ...string) fact.Volume {
		return fact.Volume{Dev: "8:2", Mount: at, Also: also, FS: "ext4", Encrypted: fact.Is(false), Leaf: "p2",
			Chain: []string{"dm-1 > p2"}}
	}
	unsure := fact.Volume{Dev: "zfs tank", Mount: "/tank", FS: "zfs", Encrypted: fact.Unread[bool]("ZFS is not read")}
	swap := fact.Volume{Dev: "/dev/dm-3", Mount: "swap", Swap: true, Encrypted: fact.Is(false), Leaf: "p3", Chain: []string{"p3"}}
	can := map[string]fact.Capability{string(settingEncryption): {Level: fact.DetectOnly}}
	for _, c := range []struct {
		volumes fact.Known[[]fact.Volume]
		can     map[string]fact.Capability
		rules   string
		want    enforce.Compliance
		how     enforce.Enforcement
		reason  string
	}{
		{fact.Is([]fact.Volume{yes("/"), yes("/home")}), can, `true`, enforce.Compliant, enforce.DetectOnly,
			"2 file system(s) and swap(s) are encrypted"},
		{fact.Is([]fact.Volume{yes("/"), no("/boot/efi")}), can, `true`, enforce.Compliant, enforce.DetectOnly,
			"1 file system(s) and swap(s) are encrypted; /boot/efi is not, and does not have to be: the machine starts from it"},
		{fact.Is([]fact.Volume{yes("/"), no("/boot", "/srv")}), can, `true`, enforce.Noncompliant, enforce.DetectOnly,
			"/boot (ext4) is not encrypted: p2 is plain (path: dm-1 > p2)"},
		{fact.Is([]fact.Volume{yes("/"), unsure, no("/a"), no("/b")}), can, `true`, enforce.Noncompliant, enforce.DetectOnly,
			"/a (ext4) is not encrypted: p2 is plain (path: dm-1 > p2); and 1 more"},
		{fact.Is([]fact.Volume{yes("/"), swap}), can, `true`, enforce.Noncompliant, enforce.DetectOnly,
			"the swap on /dev/dm-3 is not encrypted: p3 is plain (path: p3)"},
		{fact.Is([]fact.Volume{yes("/"), unsure}), can, `true`, enforce.Uncertain, enforce.DetectOnly,
			"cannot tell whether /tank (zfs) is encrypted: ZFS is not read"},
		{fact.Is([]fact.Volume{}), can, `true`, enforce.Uncertain, enforce.DetectOnly,
			"no file system or swap on this machine's own disks is in use, so encryption cannot be judged"},
		{fact.Is([]fact.Volume{no("/boot")}), can, `true`, enforce.Uncertain, enforce.DetectOnly,
			"no file system or swap on this machine's own disks is in use, so encryption cannot be judged"},
		{fact.Unread[[]fact.Volume]("no right"), can, `true`, enforce.Uncertain, enforce.DetectOnly,
			"the volumes cannot be read: no right"},
		{fact.Is([]fact.Volume{no("/")}), can, `false`, enforce.Compliant, enforce.DetectOnly, "encryption is not required"},
		{fact.Is([]fact.Volume{yes("/")}), nil, `true`, enforce.Uncertain, enforce.Unsupported, fact.NotCarried},
	} {
		for _, mode := range []string{"enforce", "warn", "monitor"} {
			d, err := policy.Decode([]byte(`{"compliance":"`+mode+`","policy_data":{"storage":{"encryption_required":`+c.rules+`}}}`),
				policy.Options{})
			if err != nil {
				t.Fatal(err)
			}
			m := fact.Machine{Volumes: c.volumes, Capable: c.can}
			out := section.Decide([]section.Section{Section}, section.Open([]section.Section{Section}, d, &m))
			if len(out.Findings) != 1 || len(out.Wants) != 0 {
				t.Fatalf("%+v", out)
			}
			f, how := out.Findings[0], c.how
			if f.Compliance != c.want || f.Enforcement != how || f.Reason != c.reason {
				t.Errorf("%s: %s/%s: %q\nwant %s/%s: %q", mode, f.Compliance, f.Enforcement, f.Reason, c.want, how, c.reason)
			}
			if c.volumes.OK && c.rules == "true" && c.can != nil && len(f.Evidence) != len(c.volumes.V) {
				t.Errorf("%+v", f.Evidence)
			}
		}
	}
	// What fails is named first, and the list is bounded.
	var many []fact.Volume
	for range 50 {
		many = append(many, yes("/x"))
	}
	m := fact.Machine{Volumes: fact.Is(append(many, no("/bad"))), Capable: can}
	d, _ := policy.Decode([]byte(`{"policy_data":{"storage":{"encryption_required":true}}}`), policy.Options{})
	f := section.Decide([]section.Section{Section}, section.Open([]section.Section{Section}, d, &m)).Findings[0]
	if len(f.Evidence) != maxNamed || f.Evidence[0].Key != "volume /bad" || f.Evidence[0].Value != "plain" ||
		!strings.Contains(f.Evidence[0].How, "p2") {
		t.Errorf("%+v", f.Evidence)
	}
}

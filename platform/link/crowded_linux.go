package link

import (
	"os"
	"strconv"
	"strings"
)

// Crowded reports whether the kernel has little room left for further connections: any user can bring that about.
func Crowded() bool {
	number := func(name string) int {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	most := number("nf_conntrack_max")
	return most > 0 && number("nf_conntrack_count") > most/10*8
}

package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"strings"

	"github.com/miekg/dns"
)

// outside is the network beyond the laptop, for a test that runs it in another network namespace: a name server at one
// address, which knows the names that are given as "name=address", and servers that echo at port 443 of others.
func outside(args []string) error {
	zone := map[string]string{}
	for _, a := range args[1:] {
		name, addr, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("%q must be name=address", a)
		}
		if _, again := zone[addr]; !again {
			l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort(addr, "443"))
			if err != nil {
				return err
			}
			zone[addr] = ""
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						log.Print(err)
						return
					}
					go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
				}
			}()
		}
		zone[name+"."] = addr
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		a.RecursionAvailable = true
		if opt := q.IsEdns0(); opt != nil {
			a.SetEdns0(1232, opt.Do())
		}
		name := strings.ToLower(q.Question[0].Name)
		addr := zone[name]
		if addr == "" {
			a.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeA {
			rr, err := dns.NewRR(name + " 60 IN A " + addr)
			if err == nil {
				a.Answer = append(a.Answer, rr)
			}
		}
		log.Print(w.RemoteAddr(), " asks for ", name, dns.TypeToString[q.Question[0].Qtype])
		_ = w.WriteMsg(a)
	})
	at := net.JoinHostPort(args[0], "53")
	go func() { log.Fatal((&dns.Server{Addr: at, Net: "tcp", Handler: h}).ListenAndServe()) }()
	return (&dns.Server{Addr: at, Net: "udp", Handler: h}).ListenAndServe()
}

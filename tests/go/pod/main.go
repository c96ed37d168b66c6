// The one program of the images that tests run in pods. It waits for SIGTERM and reaps children, as the container that
// holds a pod's namespaces must. With an address it also serves HTTP there, and answers every request with its host name.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	if len(os.Args) > 1 {
		go serve(os.Args[1])
	}
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func serve(address string) {
	name, _ := os.Hostname()
	err := http.ListenAndServe(address, http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, name)
	}))
	fmt.Fprintln(os.Stderr, "pod:", err)
	os.Exit(1)
}
